//! Mistakes of the published collections that their users found.

use super::{Layout, SourceSpec};

/// A mistake, by the name of its pair.
struct Mistake {
    layout: Layout,
    name: &'static str,
    note: &'static str,
    /// True where no check would find it, so the pair is refused by its name. The others are found
    /// where they occur, so that a corrected download is used in full; the note then explains the
    /// refusal.
    by_name: bool,
}

const fn by_name(layout: Layout, name: &'static str, note: &'static str) -> Mistake {
    Mistake { layout, name, note, by_name: true }
}

const fn by_check(layout: Layout, name: &'static str, note: &'static str) -> Mistake {
    Mistake { layout, name, note, by_name: false }
}

const FSS_EXTRA: &str = "an extra image without a mask, as in every download";
const FSS_SIZE: &str = "its mask is not 224 x 224, as in every download";
const DUTS_SIZE: &str = "its image and mask differ in size, as in every download";
const DUTS_FIRST: &str = "wrong in the first archive; the authors' present one is right";
const DUTS_STRAY: &str = "stray file of the first archive: delete it";
const OMRON_REMOVED: &str = "removed by the authors on 2018-01-22: this is an older download";

#[rustfmt::skip]
const MISTAKES: [Mistake; 26] = [
    // SysCV/sam-hq issue 26.
    by_name(Layout::Fss1000, "bamboo_slip/7", "never labelled"),
    by_name(Layout::Msra10k, "97915", "mislabelled"),
    // HKUSTCV/FSS-1000 issue 8.
    by_check(Layout::Fss1000, "beam_bridge/10", FSS_EXTRA),
    by_check(Layout::Fss1000, "banana_boat/1", FSS_EXTRA),
    by_check(Layout::Fss1000, "flying_geckos/1", FSS_EXTRA),
    by_check(Layout::Fss1000, "har_gow/4", FSS_EXTRA),
    by_check(Layout::Fss1000, "pteropus/9", FSS_EXTRA),
    by_check(Layout::Fss1000, "wandering_albatross/6", FSS_EXTRA),
    by_check(Layout::Fss1000, "peregine_falcon/8", "a stray mask, as in every download"),
    by_check(Layout::Fss1000, "rubber_eraser/8", FSS_SIZE),
    by_check(Layout::Fss1000, "shower_curtain/3", FSS_SIZE),
    by_check(Layout::Fss1000, "crt_screen/6", FSS_SIZE),
    by_check(Layout::Fss1000, "rocking_chair/9", FSS_SIZE),
    by_check(Layout::Fss1000, "screw/8", FSS_SIZE),
    by_check(Layout::Fss1000, "ruler/10", FSS_SIZE),
    // lartpang/PoolNet issue 34.
    by_check(Layout::Duts, "DUTS-TR/ILSVRC2014_train_00023530", DUTS_SIZE),
    by_check(Layout::Duts, "DUTS-TR/n04442312_17818", DUTS_SIZE),
    by_check(Layout::Duts, "DUTS-TR/n01532829_13482", DUTS_SIZE),
    // PoolNet issue 67, sal_eval_toolbox issue 8.
    by_check(Layout::Duts, "DUTS-TE/ILSVRC2012_test_00036002", DUTS_FIRST),
    by_check(Layout::Duts, "DUTS-TE/sun_bcogaqperiljqupq", DUTS_FIRST),
    by_check(Layout::Duts, "DUTS-TE/mILSVRC2012_test_ 00036002", DUTS_STRAY),
    by_check(Layout::Duts, "DUTS-TE/msun_ bcogaqperiljqupq", DUTS_STRAY),
    // saliencydetection.net/dut-omron.
    by_check(Layout::DutOmron, "img_561715398", OMRON_REMOVED),
    by_check(Layout::DutOmron, "sun_bqfgwnmzhjwuphdi", OMRON_REMOVED),
    by_check(Layout::DutOmron, "sun_bswlalhygmnrhvuw", OMRON_REMOVED),
    by_check(Layout::DutOmron, "sun_buaqzytduodbufcb", OMRON_REMOVED),
];

/// What is wrong with a pair that no check would refuse.
pub(super) fn note(source: &SourceSpec, name: &str) -> Option<&'static str> {
    find(source, name).filter(|mistake| mistake.by_name).map(|mistake| mistake.note)
}

/// What users of a collection know about a pair (by its name within the source) that a check
/// refuses: an explanation for the quarantine.
#[must_use]
pub fn known_mistake(source: &SourceSpec, name: &str) -> Option<&'static str> {
    find(source, name).filter(|mistake| !mistake.by_name).map(|mistake| mistake.note)
}

fn find(source: &SourceSpec, name: &str) -> Option<&'static Mistake> {
    let layout = source.published_as();
    let published = source.published_name(name);
    // A duplicate is named with its extension.
    let stem = super::folders::without_extension(&published);
    // Copies in one folder join class and number, who knows how.
    let flat = source.layout != layout && layout == Layout::Fss1000;
    let same = |mistake: &&Mistake| {
        mistake.layout == layout
            && (mistake.name == stem || flat && letters(mistake.name).eq(letters(stem)))
    };
    MISTAKES.iter().find(same)
}

fn letters(name: &str) -> impl Iterator<Item = char> + '_ {
    name.chars().filter(|letter| letter.is_alphanumeric())
}
