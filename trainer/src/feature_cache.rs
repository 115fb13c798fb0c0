//! Frozen features on disk, so that a sample whose pixels come again skips the encoder.
//!
//! Worth it where augmentation is off or limited to a few copies of each sample; where the pixels of
//! training samples never come again, only what is evaluated is kept. Entries are found by a hash of the
//! exact pixels, the frozen weights, the encoder's sizes and precision, the kind of device, whether it
//! multiplies bfloat16 itself, and the version of the encoder's arithmetic, so runs may share a folder.
//! Not in it are libtorch's version and the processor, whose sums may differ in the last bits. Values are
//! kept in bfloat16; with a cache, features are rounded to it whether they come from the disk or not, so a
//! warm cache changes no bit of a run.
//!
//! On a GPU, the host waits for the features of each new image, which go to the disk, and for the copy
//! of each found one: what is saved is the encoder's time, so that only pays where that is longer.

mod limit;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use self::limit::Limit;
use crate::checkpoint::hex;
use crate::model::{ENCODER_ARITHMETIC, Encoders, ImageFeatures, multiplies_bf16};
use crate::upload::upload;

const IMAGE_EMBEDDINGS: &str = "image_embeddings_bhwc";
const INTERM_EMBEDDINGS: &str = "interm_embeddings_bhwc";
/// CRC-32 of the bytes of either.
const CHECKSUMS: &str = "crc32";

/// Features of images (B, H, W, 3) whose bytes are `pixels`, through the cache where there is one.
pub fn encode(
    encoders: &Encoders,
    cache: Option<&FeatureCache>,
    images_u8_bhwc: &Tensor,
    pixels: &[u8],
) -> ImageFeatures {
    let encode = |images: &Tensor| encoders.encode(&encoders.preprocess(images));
    let Some(cache) = cache else { return encode(images_u8_bhwc) };
    let image_bytes = pixels.len() / images_u8_bhwc.size()[0] as usize;
    cache.features(pixels, image_bytes, encoders.device(), |missing| {
        let index = upload(missing, images_u8_bhwc.device());
        encode(&images_u8_bhwc.index_select(0, &index))
    })
}

/// A folder of features, one file a sample; used by one thread of a rank at a time.
pub struct FeatureCache {
    folder: PathBuf,
    model_key: String,
    limit: Limit,
    /// After a failure; a full cache is asked again.
    is_read_only: AtomicBool,
    /// That it is full was told.
    is_full_told: AtomicBool,
    counts: Mutex<CacheCounts>,
}

/// What besides pixels, weights and sizes decides the bits of features.
#[derive(Clone, Copy, Debug)]
struct Arithmetic {
    version: u32,
    is_cuda: bool,
    native_bf16: bool,
}

impl Arithmetic {
    fn of(device: Device) -> Self {
        Self {
            version: ENCODER_ARITHMETIC,
            is_cuda: device.is_cuda(),
            native_bf16: multiplies_bf16(device),
        }
    }
}

/// What a cache did since it was opened or last asked, on this rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Samples that skipped the encoder.
    pub hits: u64,
    /// Samples that went through it.
    pub misses: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl FeatureCache {
    /// Opens (creates) the cache in `folder` for the frozen weights named by `model_key`. All ranks
    /// and runs that use it add files up to `limit_bytes` together; a full cache is only read.
    ///
    /// # Errors
    /// The folder cannot be created or listed.
    pub fn open(folder: &Path, model_key: &str, limit_bytes: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            model_key: model_key.to_owned(),
            limit: Limit::open(folder, limit_bytes)?,
            is_read_only: AtomicBool::new(false),
            is_full_told: AtomicBool::new(false),
            counts: Mutex::default(),
        })
    }

    /// What it did since it was opened or this was last called.
    pub fn take_counts(&self) -> CacheCounts {
        std::mem::take(&mut self.counts())
    }

    fn counts(&self) -> MutexGuard<'_, CacheCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Features of each of the images (8-bit RGB of `image_bytes` bytes, one after the other):
    /// from the disk where they are there, the others from one call of `encode` with their
    /// positions.
    pub fn features(
        &self,
        pixels: &[u8],
        image_bytes: usize,
        device: Device,
        encode: impl FnOnce(&[i64]) -> ImageFeatures,
    ) -> ImageFeatures {
        let arithmetic = Arithmetic::of(device);
        let paths: Vec<PathBuf> =
            pixels.chunks_exact(image_bytes).map(|image| self.path(arithmetic, image)).collect();
        let mut found: Vec<Option<ImageFeatures>> =
            paths.iter().map(|path| read(path, device)).collect();
        let missing: Vec<i64> =
            (0..found.len()).filter(|&index| found[index].is_none()).map(|i| i as i64).collect();
        {
            let mut counts = self.counts();
            counts.hits += (found.len() - missing.len()) as u64;
            counts.misses += missing.len() as u64;
        }
        if !missing.is_empty() {
            let fresh = rounded(&encode(&missing));
            for (position, &index) in missing.iter().enumerate() {
                let one = fresh.select(&[position as i64]);
                self.write(&paths[index as usize], &one);
                found[index as usize] = Some(one);
            }
        }
        concatenate(&found.into_iter().flatten().collect::<Vec<_>>())
    }

    fn path(&self, arithmetic: Arithmetic, image: &[u8]) -> PathBuf {
        let Arithmetic { version, is_cuda, native_bf16 } = arithmetic;
        let mut hasher = Sha256::new();
        hasher.update(self.model_key.as_bytes());
        hasher.update([0, u8::from(is_cuda), u8::from(native_bf16)]);
        hasher.update(version.to_le_bytes());
        hasher.update(image);
        self.folder.join(format!("{}.safetensors", hex(&hasher.finalize()[..16])))
    }

    /// A cache that cannot be written costs time, not the run.
    fn write(&self, path: &Path, features: &ImageFeatures) {
        if self.is_read_only.load(Ordering::Relaxed) {
            return;
        }
        let bf16 =
            |tensor: &Tensor| tensor.contiguous().to_kind(Kind::BFloat16).to_device(Device::Cpu);
        let image = bf16(&features.image_embeddings.permute([0, 2, 3, 1]));
        let interm = bf16(&features.interm_embeddings);
        let bytes = 2 * (image.numel() + interm.numel()) as u64;
        let staged = path.with_extension(format!("{}.{}", std::process::id(), limit::STAGED));
        let written = self.limit.reserve(path, bytes).and_then(|is_reserved| {
            if !is_reserved {
                self.tell_full(bytes);
                return Ok(0);
            }
            let checksums = Tensor::from_slice(&[checksum(&image), checksum(&interm)]);
            let tensors =
                [(IMAGE_EMBEDDINGS, image), (INTERM_EMBEDDINGS, interm), (CHECKSUMS, checksums)];
            Tensor::write_safetensors(&tensors, &staged).map_err(std::io::Error::other)?;
            std::fs::rename(&staged, path).map(|()| bytes)
        });
        match written {
            Ok(bytes) => self.counts().bytes_written += bytes,
            Err(error) => {
                tracing::warn!(
                    "feature cache {}: {error}; it is only read from now on",
                    path.display()
                );
                self.is_read_only.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Once: without it nobody learns why later epochs are no faster.
    fn tell_full(&self, bytes: u64) {
        if !self.is_full_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "feature cache {}: full at train.cache_limit_gib; a sample takes {:.2} MiB, and those that \
                 are not in it yet go through the encoder each time",
                self.folder.display(),
                bytes as f64 / f64::from(1 << 20)
            );
        }
    }
}

fn checksum(tensor: &Tensor) -> i64 {
    let bytes = Vec::<u8>::try_from(tensor.view_dtype(Kind::Uint8).flatten(0, -1));
    crc_fast::crc32_iscsi(&bytes.expect("bytes on the CPU become a vector")).into()
}

/// Features of one sample, or `None` where there is no whole and undamaged file.
fn read(path: &Path, device: Device) -> Option<ImageFeatures> {
    if !path.exists() {
        return None;
    }
    let tensors = Tensor::read_safetensors(path).ok()?;
    let tensor = |name: &str| tensors.iter().find(|(key, _)| key == name).map(|(_, found)| found);
    let checksums = Vec::<i64>::try_from(tensor(CHECKSUMS)?).ok()?;
    let (image, interm) = (tensor(IMAGE_EMBEDDINGS)?, tensor(INTERM_EMBEDDINGS)?);
    if [image, interm].map(checksum)[..] != checksums {
        tracing::warn!("feature cache {}: damaged, so it is made again", path.display());
        return None;
    }
    let float = |tensor: &Tensor| tensor.to_device(device).to_kind(Kind::Float);
    Some(ImageFeatures {
        image_embeddings: float(image).permute([0, 3, 1, 2]),
        interm_embeddings: float(interm),
    })
}

fn rounded(features: &ImageFeatures) -> ImageFeatures {
    let round = |tensor: &Tensor| tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float);
    ImageFeatures {
        image_embeddings: round(&features.image_embeddings),
        interm_embeddings: round(&features.interm_embeddings),
    }
}

fn concatenate(parts: &[ImageFeatures]) -> ImageFeatures {
    let of = |field: fn(&ImageFeatures) -> &Tensor| {
        Tensor::cat(&parts.iter().map(field).collect::<Vec<_>>(), 0)
    };
    ImageFeatures {
        image_embeddings: of(|features| &features.image_embeddings),
        interm_embeddings: of(|features| &features.interm_embeddings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Features that tell which image they are of.
    fn encode(images: &[i64]) -> ImageFeatures {
        let batch = images.len() as i64;
        let values = Tensor::from_slice(images).to_kind(Kind::Float).view([batch, 1, 1, 1]) + 0.001;
        ImageFeatures {
            image_embeddings: values.expand([batch, 3, 2, 2], false).contiguous(),
            interm_embeddings: values.expand([batch, 2, 2, 5], false).contiguous(),
        }
    }

    #[test]
    fn a_second_time_needs_no_encoder_and_gives_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(folder.path(), "model", 1 << 20).unwrap();
        let pixels = [[1u8; 12], [2; 12]].concat();
        let first = cache.features(&pixels, 12, Device::Cpu, encode);
        let CacheCounts { hits, misses, bytes_written } = cache.take_counts();
        assert_eq!((hits, misses), (0, 2));
        assert_eq!(bytes_written, 2 * 2 * (3 * 4 + 2 * 2 * 5));
        let second = cache.features(&pixels, 12, Device::Cpu, |_| panic!("encoded again"));
        assert_eq!(cache.take_counts(), CacheCounts { hits: 2, ..CacheCounts::default() });
        assert!(first.image_embeddings.equal(&second.image_embeddings));
        assert!(first.interm_embeddings.equal(&second.interm_embeddings));
        assert_eq!(second.image_embeddings.size(), [2, 3, 2, 2]);

        let other = FeatureCache::open(folder.path(), "other model", 1 << 20).unwrap();
        let mut encoded = Vec::new();
        let _ = other.features(&pixels, 12, Device::Cpu, |images| {
            encoded = images.to_vec();
            encode(images)
        });
        assert_eq!(encoded, [0, 1], "another model's features are never used");
    }

    #[test]
    fn everything_that_decides_the_bits_names_the_entry() {
        let folder = tempfile::tempdir().unwrap();
        let open = |key| FeatureCache::open(folder.path(), key, 0).unwrap();
        let cache = open("model");
        let ours = Arithmetic { version: 1, is_cuda: false, native_bf16: false };
        let name = cache.path(ours, &[1; 12]);
        assert_eq!(name, open("model").path(ours, &[1; 12]));
        for other in [
            cache.path(Arithmetic { version: 2, ..ours }, &[1; 12]),
            cache.path(Arithmetic { is_cuda: true, ..ours }, &[1; 12]),
            cache.path(Arithmetic { native_bf16: true, ..ours }, &[1; 12]),
            cache.path(ours, &[2; 12]),
            open("model bf16").path(ours, &[1; 12]),
        ] {
            assert_ne!(name, other);
        }
        assert!(Arithmetic::of(Device::Cuda(0)).is_cuda && !Arithmetic::of(Device::Cpu).is_cuda);
        assert_eq!(Arithmetic::of(Device::Cpu).native_bf16, multiplies_bf16(Device::Cpu));
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect()
    }

    /// What is logged meanwhile.
    fn told(work: impl FnOnce()) -> String {
        let log = tempfile::NamedTempFile::new().unwrap();
        let writer = Mutex::new(log.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, work);
        std::fs::read_to_string(log.path()).unwrap()
    }

    #[test]
    fn a_full_cache_and_a_damaged_entry_are_survived() {
        let folder = tempfile::tempdir().unwrap();
        let full = FeatureCache::open(folder.path(), "model", 0).unwrap();
        let told = told(|| {
            for _ in 0..3 {
                let _ = full.features(&[1u8; 12], 12, Device::Cpu, encode);
            }
        });
        assert!(entries(folder.path()).is_empty());
        assert_eq!(told.matches("full at train.cache_limit_gib").count(), 1, "{told}");

        let cache = FeatureCache::open(folder.path(), "model", 1 << 20).unwrap();
        let whole = cache.features(&[1u8; 12], 12, Device::Cpu, encode);
        let entry = entries(folder.path()).remove(0);
        let bytes = std::fs::read(&entry).unwrap();
        let mut flipped = bytes.clone();
        // The tensors come after the header; a bit of theirs makes another number.
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [b"torn".to_vec(), bytes[..bytes.len() - 9].to_vec(), flipped] {
            std::fs::write(&entry, damaged).unwrap();
            let mut calls = 0;
            let found = cache.features(&[1u8; 12], 12, Device::Cpu, |images| {
                calls += 1;
                encode(images)
            });
            assert_eq!(calls, 1);
            assert!(found.image_embeddings.equal(&whole.image_embeddings));
            assert_eq!(std::fs::read(&entry).unwrap(), bytes, "written again");
        }
    }

    #[test]
    fn runs_at_the_same_time_share_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        // Three entries of 64 bytes of values, not four.
        let limit = 3 * (64 + limit::HEADER_BYTES) + 100;
        let open = |key: &str| FeatureCache::open(folder.path(), key, limit).unwrap();
        let caches = [open("one"), open("two")];
        for number in 0..6 {
            let cache = &caches[number % 2];
            let _ = cache.features(&[number as u8; 12], 12, Device::Cpu, encode);
        }
        assert_eq!(entries(folder.path()).len(), 3);
        let sizes = entries(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!((3 * 64..=limit).contains(&sizes), "{sizes} of {limit}");
        // Room that was taken is not given again, in a full cache neither to a new run.
        let _ = open("one").features(&[9; 12], 12, Device::Cpu, encode);
        let _ = caches[0].features(&[9; 12], 12, Device::Cpu, encode);
        assert!(entries(folder.path()).len() <= 4);
    }
}
