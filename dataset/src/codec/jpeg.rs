//! Whether a JPEG file holds all of its picture.

/// First bytes after 0xFF that stand alone: no length follows them.
const TEMPORARY: u8 = 0x01;
const RESTART: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;
const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;

/// True when the markers lead to an end-of-image marker after at least one scan.
///
/// The decoder fills what is missing of a cut file with grey and reports success, so it cannot be
/// asked. Walking the markers skips thumbnails inside segments, which have an end marker of their
/// own.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 0;
    let mut scans = 0;
    loop {
        // Between segments: any number of fill bytes, then the code. Within a scan: the data up to
        // the next marker that is neither a stuffed zero nor a restart.
        let Some(found) = bytes[at..].iter().position(|&byte| byte == 0xFF) else { return false };
        at += found + 1;
        let Some(&code) = bytes.get(at) else { return false };
        match code {
            0x00 | TEMPORARY | START_OF_IMAGE => at += 1,
            0xFF => {}
            END_OF_IMAGE => return scans > 0,
            code if RESTART.contains(&code) => at += 1,
            code => {
                scans += usize::from(code == START_OF_SCAN);
                let Some(&[high, low]) = bytes.get(at + 1..).and_then(<[u8]>::first_chunk) else {
                    return false;
                };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
                if at > bytes.len() {
                    return false;
                }
            }
        }
    }
}
