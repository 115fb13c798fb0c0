//! What archives have in common: their names, and the names in them.

use super::InputError;

/// An archive that can be read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Zip,
    Tar,
}

/// The kind of an archive by its name, and the name without the extension. Some are packed twice,
/// or only called so: `X.zip.zip` is `X`.
pub(super) fn kind_of(path: &str) -> Option<(Kind, &str)> {
    let kinds = [(".zip", Kind::Zip), (".tar", Kind::Tar)];
    let (kind, mut stem) =
        kinds.into_iter().find_map(|(end, kind)| Some((kind, strip_end(path, end)?)))?;
    while let Some(shorter) = strip_end(stem, ".zip").or_else(|| strip_end(stem, ".tar")) {
        stem = shorter;
    }
    let named = !stem.is_empty() && !stem.ends_with('/');
    named.then_some((kind, stem))
}

/// Whether it is an archive that only unpacking gives access to.
pub(super) fn is_compressed_tar(path: &str) -> bool {
    let ends =
        [".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar"];
    ends.iter().any(|end| strip_end(path, end).is_some())
}

/// The name of an entry as a path below the archive.
///
/// Archives from Windows separate by `\`. Names that lead elsewhere are refused, though nothing is
/// ever written under them: the archive is not what it claims to be.
pub(super) fn entry_path(archive: &str, name: &str) -> Result<String, InputError> {
    let slashed = if name.contains('/') { name.to_owned() } else { name.replace('\\', "/") };
    let drive = slashed.as_bytes().get(1) == Some(&b':')
        && slashed.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    let leads_out = slashed.starts_with('/')
        || drive
        || slashed.contains('\0')
        || slashed.split('/').any(|part| part == "..");
    if leads_out {
        return Err(InputError::UnsafeName { path: archive.to_owned(), entry: name.to_owned() });
    }
    let parts = slashed.split('/').filter(|part| !part.is_empty() && *part != ".");
    Ok(parts.collect::<Vec<_>>().join("/"))
}

/// `path` without an end that is compared without case.
fn strip_end<'a>(path: &'a str, end: &str) -> Option<&'a str> {
    let (stem, found) = path.split_at_checked(path.len().checked_sub(end.len())?)?;
    found.eq_ignore_ascii_case(end).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        assert_eq!(kind_of("a/images.ZIP"), Some((Kind::Zip, "a/images")));
        assert_eq!(
            kind_of("DUT-OMRON-gt-pixelwise.zip.zip"),
            Some((Kind::Zip, "DUT-OMRON-gt-pixelwise"))
        );
        assert_eq!(kind_of("set.v2.tar"), Some((Kind::Tar, "set.v2")));
        assert_eq!((kind_of("a/.zip"), kind_of("zip"), kind_of("a.zip/b")), (None, None, None));
        assert!(is_compressed_tar("x.TAR.gz") && is_compressed_tar("x.tgz"));
        assert!(!is_compressed_tar("x.tar") && kind_of("x.tar.gz").is_none());
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../a.jpg", "a/../../b", "/etc/passwd", "C:\\a.jpg", "..\\a", "a\0b"] {
            let error = entry_path("x.zip", name).unwrap_err();
            assert!(matches!(error, InputError::UnsafeName { .. }), "{name}");
        }
        assert_eq!(entry_path("x.zip", "./a//b c#.jpg").unwrap(), "a/b c#.jpg");
        assert_eq!(entry_path("x.zip", "a\\b.jpg").unwrap(), "a/b.jpg");
        assert_eq!(entry_path("x.zip", "a/b\\c.jpg").unwrap(), "a/b\\c.jpg");
    }
}
