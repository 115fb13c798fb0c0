//! Masks whose pixels are numbers of palette colours, as PASCAL VOC and DAVIS write them.

use std::collections::BTreeSet;

use image::DynamicImage;

use super::mask::{MAX_OBJECT_IDS, MIN_CHROMA, foreground};

type Color = [u8; 3];

const BLACK: Color = [0; 3];
const WHITE: Color = [u8::MAX; 3];
/// What PASCAL VOC draws around its objects, and where nobody could tell.
const VOID: usize = 255;

/// The foreground of a decoded file with that palette, when it is a map of object ids: the palette
/// has colours, and the file shows a few of them. The colour of entry 0 is the background. Entry 255
/// is the undecided border of an object, hence background, unless there is nothing else.
///
/// `None` where brightness tells more: a palette of greys, black and white in whatever places of a
/// coloured palette, one colour alone, and pictures.
pub(super) fn object_ids(decoded: &DynamicImage, palette: &[Color]) -> Option<Vec<u8>> {
    let channels = match decoded {
        DynamicImage::ImageRgb8(_) => 3,
        DynamicImage::ImageRgba8(_) => 4,
        _ => return None,
    };
    let has_color = |[red, green, blue]: &Color| {
        red.max(green).max(blue) - red.min(green).min(blue) > MIN_CHROMA
    };
    if !palette.iter().any(has_color) {
        return None;
    }
    let pixels = || decoded.as_bytes().chunks_exact(channels).map(|it| [it[0], it[1], it[2]]);
    let mut shown = BTreeSet::new();
    let mut last = None;
    for color in pixels() {
        if last != Some(color) && shown.insert(color) && shown.len() > MAX_OBJECT_IDS {
            return None;
        }
        last = Some(color);
    }
    if shown.len() == 1 || shown.iter().all(|color| [BLACK, WHITE].contains(color)) {
        return None;
    }
    let background = *palette.first()?;
    let void = palette.get(VOID).copied();
    let void = void.filter(|void| shown.iter().any(|it| *it != background && it != void));
    let is_object = |color: Color| color != background && Some(color) != void;
    Some(pixels().map(|color| foreground(is_object(color))).collect())
}
