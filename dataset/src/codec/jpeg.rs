//! What the markers of a JPEG file tell before it is decoded.

use crate::verify::RejectReason;

/// First bytes after 0xFF that stand alone: no length follows them.
const TEMPORARY: u8 = 0x01;
const RESTART: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;
const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;
/// Baseline, extended and progressive, all with Huffman coding.
const SUPPORTED_FRAMES: std::ops::RangeInclusive<u8> = 0xC0..=0xC2;

/// The kinds of JPEG that no decoder here reads, by the code of their frame header.
fn unsupported_kind(code: u8) -> Option<&'static str> {
    match code {
        0xC3 => Some("lossless JPEG"),
        0xC5..=0xC7 => Some("hierarchical JPEG"),
        0xC9 | 0xCA => Some("JPEG with arithmetic coding"),
        0xCB | 0xCD..=0xCF => Some("lossless or hierarchical JPEG with arithmetic coding"),
        0xF7 => Some("JPEG-LS, a lossless JPEG"),
        _ => None,
    }
}

/// Bits of a sample that are read.
const PRECISION: u8 = 8;

/// Refuses a file that is no JPEG to its end, or of a kind that is not handled.
///
/// Whole is a file whose markers lead to an end-of-image marker after at least one scan. The
/// decoder fills what is missing of a cut file with grey and reports success, so it cannot be
/// asked. Walking the markers skips thumbnails inside segments, which have an end marker of their
/// own.
pub(super) fn check(bytes: &[u8]) -> Result<(), RejectReason> {
    walk(bytes, false)
}

/// [`check`] of the headers before the first scan only, for a decoder that notices missing data.
pub(super) fn check_headers(bytes: &[u8]) -> Result<(), RejectReason> {
    walk(bytes, true)
}

fn walk(bytes: &[u8], headers_only: bool) -> Result<(), RejectReason> {
    let mut at = 0;
    let mut scans = 0;
    loop {
        // Between segments: any number of fill bytes, then the code. Within a scan: the data up to
        // the next marker that is neither a stuffed zero nor a restart.
        let found = bytes[at..].iter().position(|&byte| byte == 0xFF);
        at += found.ok_or(RejectReason::Truncated)? + 1;
        match *bytes.get(at).ok_or(RejectReason::Truncated)? {
            0x00 | TEMPORARY | START_OF_IMAGE => at += 1,
            0xFF => {}
            END_OF_IMAGE if scans > 0 => return Ok(()),
            END_OF_IMAGE => return Err(RejectReason::Truncated),
            code if RESTART.contains(&code) => at += 1,
            code => {
                let segment = segment(&bytes[at + 1..]).ok_or(RejectReason::Truncated)?;
                if scans == 0 {
                    check_frame(code, segment)?;
                }
                scans += usize::from(code == START_OF_SCAN);
                if headers_only && scans > 0 {
                    return Ok(());
                }
                at += 1 + segment.len();
            }
        }
    }
}

/// The bytes of a segment, from its length on.
fn segment(bytes: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes(*bytes.first_chunk()?);
    bytes.get(..usize::from(length))
}

/// Refuses the frame headers of other kinds and other precisions.
fn check_frame(code: u8, segment: &[u8]) -> Result<(), RejectReason> {
    let refuse = |detail: String| Err(RejectReason::Unsupported { detail });
    if let Some(kind) = unsupported_kind(code) {
        return refuse(kind.to_owned());
    }
    match segment.get(2) {
        Some(&bits) if SUPPORTED_FRAMES.contains(&code) && bits != PRECISION => {
            refuse(format!("JPEG of {bits} bits"))
        }
        _ => Ok(()),
    }
}
