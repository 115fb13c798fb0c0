//! Weights and pictures as `python/make_goldens.py` draws them.

use tch::{Device, Kind, Tensor};

/// `uniform` of the script: multiples of 2^-24 in [-0.5, 0.5).
fn uniform(name: &str, count: usize) -> Vec<f32> {
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let value = |index: u64| {
        let mut z = key.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count as u64).map(value).collect()
}

/// `weight` of the script.
pub(crate) fn weight(name: &str, shape: &[i64]) -> Tensor {
    if name.ends_with("num_batches_tracked") {
        return Tensor::zeros(shape, (Kind::Int64, Device::Cpu));
    }
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let is_embedding = ends(&["_token.weight", "_tokens.weight", "_embed.weight"])
        || ends(&["gaussian_matrix"])
        || name.contains(".point_embeddings.");
    let (factor, offset) = if is_embedding {
        (12_f64.sqrt(), 0.0)
    } else if ends(&["pos_embed", "rel_pos_h", "rel_pos_w", "attention_biases"]) {
        (0.5, 0.0)
    } else if ends(&["running_var"]) {
        (1.0, 1.0)
    } else if shape.len() == 1 && ends(&[".weight"]) {
        (0.5, 1.0)
    } else if shape.len() == 1 {
        (0.4, 0.0)
    } else {
        ((12.0 / shape[1..].iter().product::<i64>() as f64).sqrt(), 0.0)
    };
    let values = uniform(name, shape.iter().product::<i64>() as usize);
    let values: Vec<f32> = values.into_iter().map(|u| u * factor as f32 + offset as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

fn triangle(value: i64, period: i64) -> i64 {
    ((value % (2 * period)) - period).abs() * 255 / period
}

/// `pixels` of the script: 8-bit RGB, row by row.
pub(crate) fn pixels(number: i64, height: i64, width: i64) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            pixels.extend((0..3).map(|c| {
                let first = triangle(x * (c + 2) + y * 3 + number * 17, 61);
                let second = triangle(y * (5 - c) + x + number * 29, 43);
                ((first + second) / 2) as u8
            }));
        }
    }
    pixels
}
