//! Contact sheets: small pictures with the mask's outline, as data URIs.

use std::collections::{BTreeMap, BTreeSet};

use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use image::Rgb;
use sha2::{Digest, Sha256};

use super::super::BuildError;
use super::super::output::ShardFile;
use super::duplicates::{DuplicatePair, Repetition, place};
use super::facts::{RowFacts, read_pictures};
use crate::page::{draw_outline, jpeg, jpeg_uri, shrink};
use crate::workers::Workers;

/// Pictures on the contact sheet of a source.
const PICTURES_PER_SOURCE: usize = 12;
/// Pairs of repeated images shown of each kind; the list is longer.
const REPETITIONS_SHOWN: usize = 16;
/// Longest side of a picture, in pixels.
const PICTURE_SIDE: u32 = 240;
/// Seen on nearly every photograph.
const OUTLINE: Rgb<u8> = Rgb([255, 0, 160]);

/// One picture of a contact sheet.
#[derive(Clone, serde::Serialize)]
pub(super) struct Picture {
    pub(super) caption: String,
    /// For those who do not see it.
    pub(super) alt: String,
    pub(super) data_uri: String,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// Two repeated images side by side.
#[derive(serde::Serialize)]
pub(super) struct RepeatedPicture {
    pub(super) bits: u32,
    /// The two files are the same, byte by byte.
    pub(super) identical: bool,
    pub(super) kind: Repetition,
    pub(super) pictures: [Picture; 2],
}

/// A few pictures of every source, chosen by a digest of their names so that a rebuild shows the
/// same ones.
pub(super) fn contact_sheets(
    facts: &[RowFacts],
    shards: &[ShardFile],
    workers: &Workers,
) -> Result<BTreeMap<String, Vec<Picture>>, BuildError> {
    let chosen: Vec<&RowFacts> = by_source(facts).into_values().flatten().collect();
    let mut sheets: BTreeMap<String, Vec<Picture>> = BTreeMap::new();
    for (fact, picture) in pictures_of(chosen, shards, workers)? {
        sheets.entry(fact.source.clone()).or_default().push(picture);
    }
    Ok(sheets)
}

/// The first repeated images of each kind, in the order of the list: leaks first.
pub(super) fn repeated(
    facts: &[RowFacts],
    shards: &[ShardFile],
    pairs: &[DuplicatePair],
    workers: &Workers,
) -> Result<Vec<RepeatedPicture>, BuildError> {
    let kinds = pairs.chunk_by(|one, next| one.kind == next.kind);
    let shown: Vec<&DuplicatePair> =
        kinds.flat_map(|pairs| pairs.iter().take(REPETITIONS_SHOWN)).collect();
    let wanted: BTreeSet<&str> =
        shown.iter().flat_map(|pair| [pair.left.as_str(), pair.right.as_str()]).collect();
    let chosen = facts.iter().filter(|fact| wanted.contains(place(fact).as_str())).collect();
    let pictures: BTreeMap<String, (&RowFacts, Picture)> = pictures_of(chosen, shards, workers)?
        .into_iter()
        .map(|(fact, picture)| (place(fact), (fact, picture)))
        .collect();
    Ok(shown
        .iter()
        .filter_map(|pair| {
            let (left, left_picture) = pictures.get(&pair.left)?;
            let (right, right_picture) = pictures.get(&pair.right)?;
            Some(RepeatedPicture {
                bits: pair.bits,
                identical: left.image_sha256 == right.image_sha256,
                kind: pair.kind,
                pictures: [left_picture.clone(), right_picture.clone()],
            })
        })
        .collect())
}

/// The pictures of chosen rows, in the order in which they are stored.
fn pictures_of<'a>(
    mut chosen: Vec<&'a RowFacts>,
    shards: &[ShardFile],
    workers: &Workers,
) -> Result<Vec<(&'a RowFacts, Picture)>, BuildError> {
    chosen.sort_by_key(|fact| fact.place);
    let mut pictures = Vec::with_capacity(chosen.len());
    for in_shard in chosen.chunk_by(|left, right| left.place.0 == right.place.0) {
        let rows: Vec<usize> = in_shard.iter().map(|fact| fact.place.1).collect();
        let files = read_pictures(&shards[in_shard[0].place.0], &rows)?;
        let mut drawn = Vec::with_capacity(files.len());
        for (&named, (image, mask)) in in_shard.iter().zip(files) {
            let fact = RowFacts::clone(named);
            drawn.push((named, workers.submit(move || picture(&fact, &image, &mask))));
        }
        for (fact, slot) in drawn {
            pictures.extend(workers.wait(slot).flatten().map(|picture| (fact, picture)));
        }
    }
    Ok(pictures)
}

fn by_source(facts: &[RowFacts]) -> BTreeMap<&str, Vec<&RowFacts>> {
    let mut sources: BTreeMap<&str, Vec<&RowFacts>> = BTreeMap::new();
    for fact in facts {
        sources.entry(&fact.source).or_default().push(fact);
    }
    for rows in sources.values_mut() {
        rows.sort_by_cached_key(|fact| Sha256::digest(&fact.sample_id));
        rows.truncate(PICTURES_PER_SOURCE);
    }
    sources
}

/// `None` where a file cannot be decoded, which the build itself has excluded.
fn picture(fact: &RowFacts, image: &[u8], mask: &[u8]) -> Option<Picture> {
    let limits = DecodeLimits::none();
    let (image, mask) = (decode_image(image, &limits).ok()?, decode_mask(mask, &limits).ok()?);
    let mut small = shrink(&image, PICTURE_SIDE)?;
    draw_outline(&mut small, &mask, OUTLINE);
    Some(Picture {
        caption: format!("{} ({}, {} x {})", fact.sample_id, fact.split, image.width, image.height),
        alt: format!("{} with the outline of its mask", fact.sample_id),
        data_uri: jpeg_uri(&jpeg(&small).ok()?),
        width: small.width(),
        height: small.height(),
    })
}
