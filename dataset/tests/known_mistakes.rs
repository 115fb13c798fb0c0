//! Every mistake that users found in the published collections, in its collection's own layout:
//! found where it occurs, explained, and a corrected download is used in full.

use std::io;

use dataset::source::{
    Discovery, FileTree, Layout, RawFile, RawFiles, SourceSpec, discover, known_mistake,
};
use dataset::verify::RejectReason;

/// Names without bytes: listing looks at nothing else.
struct Names(FileTree);

impl RawFiles for Names {
    fn tree(&self) -> &FileTree {
        &self.0
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::NotFound, path.to_owned()))
    }
}

fn found(layout: Layout, files: &[String]) -> Discovery {
    found_by(&SourceSpec::new("source", layout, "raw"), files)
}

fn found_by(spec: &SourceSpec, files: &[String]) -> Discovery {
    let file = |path: &String| RawFile { path: path.clone(), bytes: 0, version: String::new() };
    let names = Names(FileTree::new(files.iter().map(file).collect()));
    discover(spec, &names).unwrap()
}

fn known(layout: Layout, name: &str) -> Option<&'static str> {
    known_mistake(&SourceSpec::new("source", layout, "raw"), name)
}

/// `(name, reason)` of each refusal.
fn refused(discovery: &Discovery) -> Vec<(&str, &RejectReason)> {
    discovery
        .rejected
        .iter()
        .map(|entry| (entry.sample_id.trim_start_matches("source/"), &entry.reason))
        .collect()
}

#[test]
fn extra_images_of_fss_are_left_out_and_their_classes_kept() {
    for (class, extra) in [
        ("beam_bridge", 10),
        ("banana_boat", 1),
        ("flying_geckos", 1),
        ("har_gow", 4),
        ("pteropus", 9),
        ("wandering_albatross", 6),
    ] {
        let folder = format!("fewshot_data/fewshot_data/{class}");
        let mut files: Vec<String> = (1..=10)
            .flat_map(|n| ["jpg", "png"].map(|kind| format!("{folder}/{n}.{kind}")))
            .collect();
        files.push(format!("{folder}/{extra}.jpeg"));
        let discovery = found(Layout::Fss1000, &files);
        assert_eq!(discovery.pairs.len(), 10, "{class}");
        let kept = RejectReason::DuplicateName { kept: format!("{extra}.jpg") };
        let name = format!("{class}/{extra}.jpeg");
        assert_eq!(refused(&discovery), [(name.as_str(), &kept)]);
        assert!(known(Layout::Fss1000, &name).unwrap().contains("extra image"));
        // The pair of the same number is no mistake: it was taken.
        assert!(discovery.pairs.iter().any(|pair| pair.name == format!("{class}/{extra}")));
    }
}

#[test]
fn stray_masks_and_pairs_that_were_never_labelled_are_refused_by_name() {
    let folder = |class: &str, n: u32, kind: &str| format!("fewshot_data/{class}/{n}.{kind}");
    let files = [
        folder("peregine_falcon", 7, "jpg"),
        folder("peregine_falcon", 7, "png"),
        folder("peregine_falcon", 8, "png"),
        folder("bamboo_slip", 6, "jpg"),
        folder("bamboo_slip", 6, "png"),
        folder("bamboo_slip", 7, "jpg"),
        folder("bamboo_slip", 7, "png"),
    ];
    let discovery = found(Layout::Fss1000, &files);
    let never = RejectReason::KnownBad { note: "never labelled".into() };
    assert_eq!(
        refused(&discovery),
        [("bamboo_slip/7", &never), ("peregine_falcon/8", &RejectReason::MissingImage)]
    );
    assert!(known(Layout::Fss1000, "peregine_falcon/8").is_some());
    assert_eq!(discovery.pairs.len(), 2);

    let files = ["97914", "97915"]
        .iter()
        .flat_map(|name| ["jpg", "png"].map(|kind| format!("MSRA10K_Imgs_GT/Imgs/{name}.{kind}")));
    let discovery = found(Layout::Msra10k, &files.collect::<Vec<_>>());
    let mislabelled = RejectReason::KnownBad { note: "mislabelled".into() };
    assert_eq!(refused(&discovery), [("97915", &mislabelled)]);
    assert_eq!(discovery.pairs[0].name, "97914");
}

#[test]
fn strays_of_the_first_duts_archive_are_masks_without_an_image() {
    let mask = |name: &str| format!("DUTS-TE/DUTS-TE-Mask/{name}.png");
    let image = |name: &str| format!("DUTS-TE/DUTS-TE-Image/{name}.jpg");
    let good = ["ILSVRC2012_test_00036002", "sun_bcogaqperiljqupq"];
    let stray = ["mILSVRC2012_test_ 00036002", "msun_ bcogaqperiljqupq"];
    let mut files: Vec<String> = good.iter().flat_map(|name| [image(name), mask(name)]).collect();
    files.extend(stray.map(mask));
    let discovery = found(Layout::Duts, &files);
    // The authors' present archive has them right: nothing is refused by name.
    assert_eq!(discovery.pairs.len(), 2);
    assert_eq!(discovery.rejected.len(), 2);
    for (name, reason) in refused(&discovery) {
        assert_eq!(reason, &RejectReason::MissingImage, "{name}");
        assert!(known(Layout::Duts, name).unwrap().contains("stray"), "{name}");
    }
    for name in good {
        assert!(known(Layout::Duts, &format!("DUTS-TE/{name}")).unwrap().contains("first archive"));
    }
}

#[test]
fn images_that_omron_removed_have_no_mask() {
    let removed =
        ["img_561715398", "sun_bqfgwnmzhjwuphdi", "sun_bswlalhygmnrhvuw", "sun_buaqzytduodbufcb"];
    let mut files: Vec<String> =
        removed.iter().map(|name| format!("DUT-OMRON-image/{name}.jpg")).collect();
    files.push("DUT-OMRON-image/im001.jpg".into());
    files.push("pixelwiseGT-new-PNG/im001.png".into());
    files.push("__MACOSX/DUT-OMRON-image/._im001.jpg".into());
    let discovery = found(Layout::DutOmron, &files);
    assert_eq!(discovery.pairs.len(), 1);
    assert_eq!(refused(&discovery).len(), 4);
    for (name, reason) in refused(&discovery) {
        assert_eq!(reason, &RejectReason::MissingMask, "{name}");
        assert!(known(Layout::DutOmron, name).unwrap().contains("older download"));
    }
}

#[test]
fn pairs_of_different_sizes_are_listed_for_their_explanation() {
    let listed = [
        (Layout::Fss1000, "rubber_eraser/8"),
        (Layout::Fss1000, "shower_curtain/3"),
        (Layout::Fss1000, "crt_screen/6"),
        (Layout::Fss1000, "rocking_chair/9"),
        (Layout::Fss1000, "screw/8"),
        (Layout::Fss1000, "ruler/10"),
        (Layout::Duts, "DUTS-TR/ILSVRC2014_train_00023530"),
        (Layout::Duts, "DUTS-TR/n04442312_17818"),
        (Layout::Duts, "DUTS-TR/n01532829_13482"),
    ];
    for (layout, name) in listed {
        assert!(known(layout, name).is_some(), "{name}");
        assert!(known(Layout::Ecssd, name).is_none(), "{name}");
    }
}

/// A copy in one folder, as the published trainer reads it.
fn copy(collection: Layout, part: Option<&str>) -> SourceSpec {
    let mut spec = SourceSpec::new("source", Layout::Custom, "raw");
    (spec.images, spec.masks) = (Some("*.jpg".into()), Some("{stem}.png".into()));
    (spec.collection, spec.part) = (Some(collection), part.map(Into::into));
    spec
}

#[test]
fn copies_in_another_layout_have_the_mistakes_of_their_collection() {
    let pairs = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| ["jpg", "png"].map(|kind| format!("{name}.{kind}"))).collect()
    };
    let msra = copy(Layout::Msra10k, None);
    let mislabelled = RejectReason::KnownBad { note: "mislabelled".into() };
    let discovery = found_by(&msra, &pairs(&["97914", "97915"]));
    assert_eq!(refused(&discovery), [("97915", &mislabelled)]);
    let never = RejectReason::KnownBad { note: "never labelled".into() };
    for name in ["bamboo_slip_7", "bamboo_slip7", "bamboo_slip-7"] {
        let discovery = found_by(&copy(Layout::Fss1000, None), &pairs(&[name, "bamboo_slip_6"]));
        assert_eq!(refused(&discovery), [(name, &never)]);
    }
    // Without its word the files are anybody's.
    let anybody = SourceSpec { collection: None, ..msra };
    assert_eq!(refused(&found_by(&anybody, &pairs(&["97915"]))), []);
    // Names of parts begin with the part.
    let stem = "ILSVRC2014_train_00023530";
    assert!(known_mistake(&copy(Layout::Duts, Some("DUTS-TR")), stem).is_some());
    assert!(known_mistake(&copy(Layout::Duts, Some("DUTS-TE")), stem).is_none());
}
