//! What is known of each published collection's terms. None of this is legal advice: it repeats
//! what the authors say, and says so where they say nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Layout, SourceSpec};

/// Whether something may be done with a collection.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// The authors permit it.
    Yes,
    /// The authors forbid it.
    No,
    /// The authors say nothing, or it is not known what they say.
    #[default]
    NotStated,
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::NotStated => "not stated",
        })
    }
}

/// A published collection and its terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// As its authors call it.
    pub name: &'static str,
    /// The licence in a few words; `none stated` and `unverified` are said, not left out.
    pub license: &'static str,
    /// Whether it may be used commercially.
    pub commercial: Permission,
    /// Whether copies of it, such as shards, may be passed on.
    pub redistribution: Permission,
    /// The paper to cite.
    pub citation: &'static str,
    /// Where it comes from.
    pub home_page: &'static str,
    /// Names of sources, in lower case without punctuation, that mean this collection when the
    /// files have another layout than the authors' own.
    aliases: &'static [&'static str],
}

const CC_BY_NC: &str = "CC BY-NC 4.0";
const THIN_OBJECTS: &str = "https://github.com/liewjunhao/thin-object-selection";

const ECSSD: Collection = Collection {
    name: "ECSSD",
    license: "none stated",
    commercial: Permission::NotStated,
    redistribution: Permission::NotStated,
    citation: "Shi, Yan, Xu, Jia: Hierarchical Image Saliency Detection on Extended CSSD, TPAMI 2016",
    home_page: "http://www.cse.cuhk.edu.hk/leojia/",
    aliases: &["ecssd"],
};
const DUTS: Collection = Collection {
    name: "DUTS",
    license: "unverified; images from ImageNet DET and SUN, whose terms apply too",
    commercial: Permission::NotStated,
    redistribution: Permission::NotStated,
    citation: "Wang et al.: Learning to Detect Salient Objects with Image-level Supervision, CVPR 2017",
    home_page: "http://saliencydetection.net/duts/",
    aliases: &["duts", "dutstr", "dutste"],
};
const FSS_1000: Collection = Collection {
    name: "FSS-1000",
    license: "none stated",
    commercial: Permission::NotStated,
    redistribution: Permission::NotStated,
    citation: "Li et al.: FSS-1000: A 1000-Class Dataset for Few-Shot Segmentation, CVPR 2020",
    home_page: "https://github.com/HKUSTCV/FSS-1000",
    aliases: &["fss1000", "fss", "fssall"],
};
const MSRA_10K: Collection = Collection {
    name: "MSRA10K",
    license: "unverified; the authors ask to be cited",
    commercial: Permission::NotStated,
    redistribution: Permission::NotStated,
    citation: "Cheng et al.: Global Contrast Based Salient Region Detection, TPAMI 2015",
    home_page: "https://mmcheng.net/msra10k/",
    aliases: &["msra10k", "thus10000"],
};
const DUT_OMRON: Collection = Collection {
    name: "DUT-OMRON",
    license: "all rights reserved",
    commercial: Permission::No,
    redistribution: Permission::No,
    citation: "Yang et al.: Saliency Detection via Graph-Based Manifold Ranking, CVPR 2013",
    home_page: "http://saliencydetection.net/dut-omron/",
    aliases: &["dutomron"],
};
const DIS5K: Collection = Collection {
    name: "DIS5K",
    license: "non-commercial research and education, no redistribution",
    commercial: Permission::No,
    redistribution: Permission::No,
    citation: "Qin et al.: Highly Accurate Dichotomous Image Segmentation, ECCV 2022",
    home_page: "https://github.com/xuebinqin/DIS",
    aliases: &["dis5k", "distr", "disvd", "diste", "diste1", "diste2", "diste3", "diste4"],
};
/// COIFT and HRSOD come in the same bundle under the same licence.
const THIN_OBJECT_5K: Collection = Collection {
    name: "ThinObject-5K, COIFT, HRSOD",
    license: CC_BY_NC,
    commercial: Permission::No,
    // CC BY-NC 4.0: with attribution, not commercially.
    redistribution: Permission::Yes,
    citation: "Liew et al.: Deep Interactive Thin Object Selection, WACV 2021",
    home_page: THIN_OBJECTS,
    aliases: &["thinobject5k", "thinobject5ktest", "coift", "hrsod"],
};
const BIG: Collection = Collection {
    name: "BIG",
    license: "not for commercial purposes",
    commercial: Permission::No,
    redistribution: Permission::NotStated,
    citation: "Cheng et al.: CascadePSP: Toward Class-Agnostic and Very High-Resolution Segmentation via Global and Local Refinement, CVPR 2020",
    home_page: "https://github.com/hkchengrex/CascadePSP",
    aliases: &["big"],
};

const COLLECTIONS: [Collection; 8] =
    [ECSSD, DUTS, FSS_1000, MSRA_10K, DUT_OMRON, DIS5K, THIN_OBJECT_5K, BIG];

/// The collection that a source is a copy of: by its layout where that is the authors' own, else
/// by its name.
#[must_use]
pub fn collection(layout: Layout, name: &str) -> Option<&'static Collection> {
    let known: &Collection = match layout {
        Layout::Ecssd => &ECSSD,
        Layout::Duts => &DUTS,
        Layout::Fss1000 => &FSS_1000,
        Layout::Msra10k => &MSRA_10K,
        Layout::DutOmron => &DUT_OMRON,
        Layout::Dis5k => &DIS5K,
        Layout::ThinObject5k => &THIN_OBJECT_5K,
        Layout::Big => &BIG,
        // Files in somebody else's layout.
        _ => {
            let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            let plain = plain.to_ascii_lowercase();
            return COLLECTIONS.iter().find(|known| known.aliases.contains(&plain.as_str()));
        }
    };
    Some(known)
}

/// The terms of one source of a build.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// The configuration's word, else the catalogue's; `None` where neither has one.
    pub license: Option<String>,
    /// Whether it may be used commercially.
    pub commercial: Permission,
    /// Whether copies may be passed on.
    pub redistribution: Permission,
    /// The paper to cite.
    pub citation: Option<String>,
    /// Where it comes from.
    pub home_page: Option<String>,
}

impl SourceSpec {
    /// What may be done with this source: the catalogue's knowledge of its collection, and over it
    /// what the configuration says.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let known = collection(self.published_as(), &self.name);
        Terms {
            license: self.license.clone().or_else(|| Some(known?.license.to_owned())),
            commercial: match self.commercial {
                Some(true) => Permission::Yes,
                Some(false) => Permission::No,
                None => known.map_or(Permission::NotStated, |known| known.commercial),
            },
            redistribution: known.map_or(Permission::NotStated, |known| known.redistribution),
            citation: known.map(|known| known.citation.to_owned()),
            home_page: known.map(|known| known.home_page.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, layout: Layout) -> SourceSpec {
        SourceSpec::new(name, layout, "raw")
    }

    #[test]
    fn every_published_layout_has_terms_and_none_permits_commercial_use() {
        for layout in [
            Layout::Ecssd,
            Layout::Duts,
            Layout::Fss1000,
            Layout::Msra10k,
            Layout::DutOmron,
            Layout::Dis5k,
            Layout::ThinObject5k,
            Layout::Big,
        ] {
            let terms = spec("any", layout).terms();
            assert!(terms.license.is_some() && terms.citation.is_some(), "{layout:?}");
            assert_ne!(terms.commercial, Permission::Yes, "{layout:?}");
        }
        assert_eq!(spec("a", Layout::Dis5k).terms().redistribution, Permission::No);
        assert_eq!(spec("a", Layout::ThinObject5k).terms().license.as_deref(), Some(CC_BY_NC));
    }

    #[test]
    fn other_layouts_go_by_name_and_the_configuration_has_the_last_word() {
        assert_eq!(spec("DUTS-TE", Layout::Custom).terms().license.as_deref(), Some(DUTS.license));
        assert_eq!(
            spec("MSRA_10K", Layout::Custom).terms().home_page.as_deref(),
            Some(MSRA_10K.home_page)
        );
        assert_eq!(spec("mine", Layout::Custom).terms(), Terms::default());
        let mut mine = spec("DIS5K", Layout::Dis5k);
        mine.license = Some("bought".to_owned());
        mine.commercial = Some(true);
        let terms = mine.terms();
        assert_eq!((terms.license.as_deref(), terms.commercial), (Some("bought"), Permission::Yes));
    }
}
