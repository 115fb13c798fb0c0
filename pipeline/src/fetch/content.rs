//! Recognises what a server sent by its first bytes: a login page is no archive.

use std::path::Path;

/// So many first bytes are looked at.
pub(super) const HEAD_BYTES: usize = 512;

/// What came instead of the file called `path`, judged by the first bytes of the content.
pub(super) fn other_content(path: &Path, head: &[u8]) -> Option<String> {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    let fits = match kind.to_ascii_lowercase().as_str() {
        "zip" => is_zip(head),
        // torch.save: a zip archive since 1.6, a pickle (protocol 2) before.
        "pth" | "pt" => is_zip(head) || head.starts_with(&[0x80, 0x02]),
        "gz" | "tgz" => head.starts_with(&[0x1f, 0x8b]),
        "tar" => head.get(257..262) == Some(b"ustar"),
        _ => !is_page(head),
    };
    (!fits).then(|| describe(head))
}

fn is_zip(head: &[u8]) -> bool {
    // A local file header, or the end record of an archive without files.
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

fn is_page(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let text = text.trim_start_matches(|char: char| char.is_whitespace() || char == '\u{feff}');
    ["<!doctype html", "<html", "<head", "<!--"].iter().any(|start| text.starts_with(start))
}

fn describe(head: &[u8]) -> String {
    if head.is_empty() {
        return "an empty answer".into();
    }
    let text = String::from_utf8_lossy(head);
    if is_page(head) {
        let title = text.split_once("<title>").map(|(_, rest)| {
            rest.split("</title>").next().unwrap_or(rest).split_whitespace().collect::<Vec<_>>()
        });
        return match title {
            Some(words) => format!("a web page titled `{}`", words.join(" ")),
            None => "a web page".into(),
        };
    }
    if head.starts_with(b"version https://git-lfs") {
        return "a Git LFS pointer".into();
    }
    let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
    format!("something that begins with `{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_and_checkpoints_are_told_from_pages() {
        for (name, head, expected) in [
            ("a.zip", &b"PK\x03\x04rest"[..], None),
            ("a.pth", b"PK\x03\x04rest", None),
            ("a.pt", b"\x80\x02}q\x00", None),
            ("a.bin", b"\x00\x01", None),
            ("a.zip", b"<!DOCTYPE html><title> Sign\n in </title>", Some("titled `Sign in`")),
            ("a.bin", b"\n<HTML><body>", Some("a web page")),
            ("a.ZIP", b"version https://git-lfs.github.com/spec/v1", Some("Git LFS pointer")),
            ("a.pth", b"{\"error\":\"quota\"}", Some("begins with `{\\\"error")),
            ("a.zip", b"", Some("an empty answer")),
        ] {
            let found = other_content(Path::new(name), head);
            match expected {
                None => assert_eq!(found, None, "{name}"),
                Some(text) => assert!(found.as_ref().unwrap().contains(text), "{found:?}"),
            }
        }
    }
}
