//! What the chunks of a PNG file tell before it is decoded.

use crate::verify::RejectReason;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Red, green, blue.
const PALETTE_ENTRY_BYTES: usize = 3;
/// Where the header says of what kind the pixels are, and what it says of numbers of colours.
const COLOR_TYPE_AT: usize = 9;
const INDEXED: u8 = 3;

/// Refuses a file whose palette ends within a colour, on which the decoder panics. All else is
/// left to the decoder.
pub(super) fn check(bytes: &[u8]) -> Result<(), RejectReason> {
    for (kind, data) in chunks(bytes).take_while(|(kind, _)| kind != b"IDAT") {
        if &kind == b"PLTE" && !data.len().is_multiple_of(PALETTE_ENTRY_BYTES) {
            let detail = format!("the palette has {} bytes, not three a colour", data.len());
            return Err(RejectReason::Unreadable { detail });
        }
    }
    Ok(())
}

/// The colours of a file whose pixels are numbers of colours; `None` for other files.
pub(super) fn palette(bytes: &[u8]) -> Option<&[[u8; PALETTE_ENTRY_BYTES]]> {
    let mut chunks = chunks(bytes);
    let header = chunks.next().filter(|(kind, _)| kind == b"IHDR")?;
    if header.1.get(COLOR_TYPE_AT) != Some(&INDEXED) {
        return None;
    }
    let (_, colors) = chunks.find(|(kind, _)| kind == b"PLTE")?;
    Some(colors.as_chunks().0)
}

/// Name and data of the chunks of a file, as far as they are whole.
pub(super) fn chunks(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes.strip_prefix(SIGNATURE).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        // Behind the data, its checksum.
        rest = after.get(4..)?;
        Some((*kind, data))
    })
}
