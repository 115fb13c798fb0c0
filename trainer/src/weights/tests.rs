//! Round trips, and files that try to do harm.

use std::io::Write;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::pickle::{Pickle, PickleError};
use super::*;

fn state() -> StateDict {
    let cpu = Device::Cpu;
    StateDict::from([
        ("mask_decoder.hf_token.weight".into(), Tensor::randn([1, 256], (Kind::Float, cpu))),
        ("image_encoder.a".into(), Tensor::randn([3, 4, 2], (Kind::Float, cpu)).transpose(0, 1)),
        ("image_encoder.count".into(), Tensor::from(7_i64)),
        ("image_encoder.empty".into(), Tensor::zeros([0, 3], (Kind::Float, cpu))),
        ("image_encoder.half".into(), Tensor::randn([5], (Kind::Half, cpu))),
    ])
}

fn assert_equal(found: &StateDict, expected: &StateDict) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in found {
        let expected = &expected[name];
        let kind = if expected.kind() == Kind::Half { Kind::Float } else { expected.kind() };
        assert_eq!((tensor.size(), tensor.kind()), (expected.size(), kind), "{name}");
        assert_eq!(*tensor, expected.to_kind(kind), "{name}");
    }
}

#[test]
fn both_formats_come_back_and_leave_no_staged_file() {
    let folder = tempfile::tempdir().unwrap();
    let (pth, safe) = (folder.path().join("a.pth"), folder.path().join("a.safetensors"));
    let state = state();
    save_pth(&pth, &state).unwrap();
    save_safetensors(&safe, &state, &BTreeMap::from([("format".into(), "pt".into())])).unwrap();
    for path in [&pth, &safe] {
        let loaded = load(path).unwrap();
        assert_eq!(loaded.kind, CheckpointKind::SamHq);
        assert_equal(&loaded.state, &state);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn names_tell_what_a_file_holds() {
    let of = |names: &[&str]| {
        let state = names.iter().map(|name| (name.to_string(), Tensor::from(0.0_f32))).collect();
        recognise(&normalise_names(state))
    };
    assert_eq!(of(&["module.image_encoder.x", "module.mask_decoder.y"]), CheckpointKind::Sam);
    assert_eq!(
        of(&["_orig_mod.module.image_encoder.x", "_orig_mod.module.mask_decoder.hf_token.y"]),
        CheckpointKind::SamHq
    );
    assert_eq!(of(&["iou_token.weight", "hf_token.weight"]), CheckpointKind::HqMaskDecoder);
    assert_eq!(of(&["module.hf_token.weight", "module.hf_mlp.x"]), CheckpointKind::HqMaskDecoder);
    assert_eq!(of(&["iou_token.weight", "mask_tokens.weight"]), CheckpointKind::MaskDecoderOnly);
    assert_eq!(of(&["backbone.x"]), CheckpointKind::Unknown);
}

/// A zip with this pickle and one storage of four floats.
fn file_with(folder: &Path, pickle: &[u8], method: CompressionMethod) -> PathBuf {
    file_of(folder, pickle, &[0; 16], method)
}

/// A zip with this pickle and this storage.
fn file_of(folder: &Path, pickle: &[u8], storage: &[u8], method: CompressionMethod) -> PathBuf {
    let path = folder.join("attack.pth");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in [("x/data.pkl", pickle), ("x/data/0", storage)] {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

fn long(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// The persistent id of the storage `key`.
fn storage_of(key: &str, numel: i64) -> Vec<u8> {
    let class = b"ctorch\nFloatStorage\n";
    [&b"("[..], &text("storage"), class, &text(key), &text("cpu"), &long(numel), b"t"].concat()
}

/// A tensor with this storage size, shape and stride.
fn tensor_of(numel: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let tuple = |values: &[i64]| -> Vec<u8> {
        let values: Vec<u8> = values.iter().flat_map(|&value| long(value)).collect();
        [b"(", &values[..], b"t"].concat()
    };
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        &storage_of("0", numel),
        b"QK\x00",
        &tuple(size),
        &tuple(stride),
        b"\x89}tR",
    ]
    .concat()
}

/// A state dict of one tensor with this storage size, shape and stride.
fn pickle_of(numel: i64, size: i64, stride: i64) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text("w"), &tensor_of(numel, &[size], &[stride]), b"s."].concat()
}

#[test]
fn a_plain_view_is_read_and_an_absurd_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let read = |numel, size, stride| {
        let path =
            file_with(folder.path(), &pickle_of(numel, size, stride), CompressionMethod::Stored);
        load(&path)
    };
    assert_eq!(read(4, 2, 2).unwrap().state["w"].size(), [2]);
    let absurd = [
        (4, 5, 1),        // longer than the storage
        (4, 1 << 40, 0),  // expanded without end
        (4, 3, i64::MAX), // overflow
        (4, -1, 1),       // negative
        (1 << 60, 2, 1),  // a storage of 4 EiB
        (1 << 62, 2, 1),  // whose size in bytes overflows
        (8, 2, 1),        // a storage longer than its file
        (2, 2, 1),        // and shorter
    ];
    for (numel, size, stride) in absurd {
        let error = read(numel, size, stride).unwrap_err();
        assert!(matches!(error, WeightsError::Format { .. }), "{numel} {size} {stride}: {error}");
    }
}

/// What a pickle refers to again and again with a few bytes is not copied as often.
#[test]
fn copies_of_what_a_pickle_repeats_are_bounded() {
    let reason = |pickle: &[u8]| match Pickle::read(pickle).unwrap_err() {
        PickleError::Malformed { reason, .. } => reason,
        other => panic!("{other}"),
    };
    let nine = [&b"\x80\x02"[..], &tensor_of(4, &[1; 9], &[1; 9]), b"."].concat();
    assert!(reason(&nine).contains("more than 8 dimensions"));
    let eight = tensor_of(4, &[1; 8], &[1; 8]);
    assert!(Pickle::read(&[&eight[..], b"."].concat()).is_ok());

    // The arguments of a parameter, and a storage with a long key, each made over and over.
    let parameter = [&b"ctorch._utils\n_rebuild_parameter\n("[..], &eight, b"\x89Ntq\x01"].concat();
    let function = b"ctorch._utils\n_rebuild_parameter\nq\x020";
    let again = b"h\x02h\x01R0".repeat(600_000);
    assert!(reason(&[&parameter[..], function, &again, b"."].concat()).contains("more shapes"));
    let long_key = [&storage_of(&"7".repeat(1 << 20), 4)[..], b"q\x01"].concat();
    let again = |times| [&long_key[..], &b"h\x01Q0".repeat(times), b"."].concat();
    assert!(reason(&again(100)).contains("more shapes"));
    assert!(Pickle::read(&again(10)).is_ok());
}

#[test]
fn a_small_file_does_not_become_a_large_state() {
    let folder = tempfile::tempdir().unwrap();
    let numel = 1 << 14;
    let read = |names: &[String]| {
        let tensor = [&tensor_of(numel, &[numel], &[1])[..], b"q\x010"].concat();
        let items: Vec<u8> =
            names.iter().flat_map(|name| [&text(name)[..], b"h\x01"].concat()).collect();
        let pickle = [&b"\x80\x02"[..], &tensor, b"}(", &items, b"u."].concat();
        let storage = vec![0; 4 * numel as usize];
        load(&file_of(folder.path(), &pickle, &storage, CompressionMethod::Stored))
    };
    let names = |count| (0..count).map(|number| format!("w{number}")).collect::<Vec<_>>();
    assert_eq!(read(&names(8)).unwrap().state.len(), 8);
    for (names, problem) in [
        (names(100), "more than 8 times the bytes"),
        (names(70_000), "more than 65536 tensors"),
        (vec!["w".repeat(5000)], "a name of more than 4096 bytes"),
    ] {
        let error = read(&names).unwrap_err();
        assert!(matches!(error, WeightsError::Format { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn an_unknown_name_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let pickle = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.";
    let path = file_with(folder.path(), pickle, CompressionMethod::Stored);
    let error = load(&path).unwrap_err();
    assert!(
        matches!(&error, WeightsError::UnknownGlobal { name, .. } if name == "posix.system"),
        "{error}"
    );
    assert!(matches!(
        Pickle::read(b"\x80\x04\x8c\x02os\x8c\x06system\x93.").unwrap_err(),
        PickleError::UnknownGlobal { .. }
    ));
}

#[test]
fn compressed_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_with(folder.path(), &pickle_of(4, 4, 1), CompressionMethod::Deflated);
    assert!(matches!(load(&path).unwrap_err(), WeightsError::Format { .. }));
    std::fs::write(&path, b"\x80\x02not a zip").unwrap();
    assert!(matches!(load(&path).unwrap_err(), WeightsError::Format { .. }));
    let safe = folder.path().join("a.safetensors");
    std::fs::write(&safe, [0xff; 64]).unwrap();
    assert!(matches!(load(&safe).unwrap_err(), WeightsError::Format { .. }));
    assert!(matches!(
        load(&folder.path().join("none.pth")).unwrap_err(),
        WeightsError::Read { .. }
    ));
    assert!(matches!(
        load(&folder.path().join("a.txt")).unwrap_err(),
        WeightsError::Extension { .. }
    ));
}

#[test]
fn every_truncation_of_a_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_with(folder.path(), &pickle_of(4, 4, 1), CompressionMethod::Stored);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(load(&path).is_err(), "{length} bytes of {}", whole.len());
    }
}

#[test]
fn a_flipped_bit_in_a_tensor_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_with(folder.path(), &pickle_of(4, 4, 1), CompressionMethod::Stored);
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"x/data/0";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    bytes[at + 3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("hecksum"), "{error}");
}

#[test]
fn self_reference_and_deep_nesting_do_no_harm() {
    // A list that holds itself, and a tuple a million deep.
    assert!(Pickle::read(b"\x80\x02]q\x00h\x00a.").is_ok());
    let deep = [&b"\x80\x02)"[..], &vec![0x85; 1_000_000], b"."].concat();
    assert!(Pickle::read(&deep).is_ok());
    assert!(matches!(Pickle::read(b"\x80\x02t.").unwrap_err(), PickleError::Malformed { .. }));
    assert!(matches!(
        Pickle::read(b"\x80\x02\xff").unwrap_err(),
        PickleError::UnknownInstruction { .. }
    ));
    assert!(matches!(Pickle::read(b"X\xff\xff\xff\xffab").unwrap_err(), PickleError::Truncated));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = Pickle::read(&bytes);
    }
}
