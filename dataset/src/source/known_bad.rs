//! Pairs that their users found to be wrong and that no check of ours would find.
//!
//! Missing files, empty masks and sizes that differ are found where they occur, so that a
//! corrected download is used in full.

use super::Layout;

/// What is wrong with a pair, if it is on the list.
pub(super) fn note(layout: Layout, name: &str) -> Option<&'static str> {
    match (layout, name) {
        // SysCV/sam-hq issue 26.
        (Layout::Fss1000, "bamboo_slip/7") => Some("never labelled"),
        (Layout::Msra10k, "97915") => Some("mislabelled"),
        // lartpang and others (sal_eval_toolbox issue 8): stray masks of the first archive.
        (Layout::Duts, "DUTS-TE/mILSVRC2012_test_ 00036002" | "DUTS-TE/msun_ bcogaqperiljqupq") => {
            Some("stray file of the first archive")
        }
        _ => None,
    }
}
