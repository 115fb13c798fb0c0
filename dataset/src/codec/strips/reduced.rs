//! libjpeg-turbo's transform of 8 x 8 coefficients to 4 x 4 samples (`jidctred.c`), eight columns at
//! once. The library has it one column after another, on which a decode at half size spends more
//! time than a whole one does on its larger transform.

use std::arch::x86_64::{__m128i, __m256i};

use libjpeg_turbo_rs::decode::idct_scaled;
use pulp::cast;
use pulp::x86::V3;

/// Bits of the fraction of the constants below, and of a value between the two passes.
const CONSTANT_BITS: i32 = 13;
const PASS_BITS: i32 = 2;
/// Greater values are no picture's. Where they overflow, the library's short cuts for columns and rows
/// of one value, which are not taken here, differ from the formula.
const GREATEST: i32 = 7000;
/// The factors of the third and the seventh coefficient of a line.
const TURN: [i32; 2] = [15_137, -6_270];
/// Of the second, fourth, sixth and eighth.
const ODD_INNER: [i32; 4] = [8_697, -17_799, 11_893, -1_730];
const ODD_OUTER: [i32; 4] = [20_995, 7_373, -4_926, -4_176];

/// Dequantises a block and transforms it to 4 x 4 samples of 0 to 255.
#[inline(always)]
pub(super) fn idct_4x4(
    simd: Option<V3>,
    coefficients: &[i16; 64],
    quantisation: &[u16; 64],
    samples: &mut [u8; 16],
) {
    if let Some(simd) = simd
        && let Some(done) = transform(simd, coefficients, quantisation)
    {
        *samples = done;
    } else {
        idct_scaled::idct_4x4(coefficients, quantisation, samples);
    }
}

// Functions and no closures below: only what is inlined for certain is compiled for AVX2.

#[inline(always)]
fn weighted(simd: V3, line: __m256i, factor: i32) -> __m256i {
    simd.avx2._mm256_mullo_epi32(line, simd.avx._mm256_set1_epi32(factor))
}

/// The lines of the odd coefficients, weighted and summed.
#[inline(always)]
fn odd(simd: V3, [one, three, five, seven]: [__m256i; 4], factors: [i32; 4]) -> __m256i {
    let near = simd
        .avx2
        ._mm256_add_epi32(weighted(simd, one, factors[0]), weighted(simd, three, factors[1]));
    let far = simd
        .avx2
        ._mm256_add_epi32(weighted(simd, five, factors[2]), weighted(simd, seven, factors[3]));
    simd.avx2._mm256_add_epi32(near, far)
}

/// A line of dequantised coefficients.
#[inline(always)]
fn line(simd: V3, coefficients: [i16; 8], quantisation: [u16; 8]) -> __m256i {
    let values = simd.avx2._mm256_cvtepi16_epi32(cast(coefficients));
    simd.avx2._mm256_mullo_epi32(values, simd.avx2._mm256_cvtepu16_epi32(cast(quantisation)))
}

#[inline(always)]
fn descaled_8(simd: V3, value: __m256i) -> __m256i {
    const SHIFT: i32 = CONSTANT_BITS - PASS_BITS + 1;
    let half = simd.avx._mm256_set1_epi32(1 << (SHIFT - 1));
    simd.avx2._mm256_srai_epi32::<SHIFT>(simd.avx2._mm256_add_epi32(value, half))
}

#[inline(always)]
fn descaled_4(simd: V3, value: __m128i) -> __m128i {
    const SHIFT: i32 = CONSTANT_BITS + PASS_BITS + 3 + 1;
    let half = simd.sse2._mm_set1_epi32(1 << (SHIFT - 1));
    simd.sse2._mm_srai_epi32::<SHIFT>(simd.sse2._mm_add_epi32(value, half))
}

/// `None` for values that are no picture's.
#[inline(always)]
fn transform(simd: V3, coefficients: &[i16; 64], quantisation: &[u16; 64]) -> Option<[u8; 16]> {
    let avx2 = simd.avx2;
    let (coefficients, _) = coefficients.as_chunks::<8>();
    let (quantisation, _) = quantisation.as_chunks::<8>();
    // The fifth line has no part.
    let [zero, one, two, three] = [
        line(simd, coefficients[0], quantisation[0]),
        line(simd, coefficients[1], quantisation[1]),
        line(simd, coefficients[2], quantisation[2]),
        line(simd, coefficients[3], quantisation[3]),
    ];
    let [five, six, seven] = [
        line(simd, coefficients[5], quantisation[5]),
        line(simd, coefficients[6], quantisation[6]),
        line(simd, coefficients[7], quantisation[7]),
    ];
    let mut most = avx2._mm256_abs_epi32(zero);
    for line in [one, two, three, five, six, seven] {
        most = avx2._mm256_max_epi32(most, avx2._mm256_abs_epi32(line));
    }
    let beyond = avx2._mm256_cmpgt_epi32(most, simd.avx._mm256_set1_epi32(GREATEST));
    if avx2._mm256_movemask_epi8(beyond) != 0 {
        return None;
    }
    let even = avx2._mm256_slli_epi32::<{ CONSTANT_BITS + 1 }>(zero);
    let turn = avx2._mm256_add_epi32(weighted(simd, two, TURN[0]), weighted(simd, six, TURN[1]));
    let (outer, inner) = (avx2._mm256_add_epi32(even, turn), avx2._mm256_sub_epi32(even, turn));
    let odd_outer = odd(simd, [one, three, five, seven], ODD_OUTER);
    let odd_inner = odd(simd, [one, three, five, seven], ODD_INNER);
    Some(second_pass(
        simd,
        [
            descaled_8(simd, avx2._mm256_add_epi32(outer, odd_outer)),
            descaled_8(simd, avx2._mm256_add_epi32(inner, odd_inner)),
            descaled_8(simd, avx2._mm256_sub_epi32(inner, odd_inner)),
            descaled_8(simd, avx2._mm256_sub_epi32(outer, odd_outer)),
        ],
    ))
}

/// Two columns of four, one behind the other, each with a factor of its own.
#[inline(always)]
fn weighted_pair(simd: V3, pair: __m256i, near: i32, far: i32) -> __m256i {
    let factors = simd.avx._mm256_setr_epi32(near, near, near, near, far, far, far, far);
    simd.avx2._mm256_mullo_epi32(pair, factors)
}

/// The sum of two columns.
#[inline(always)]
fn folded(simd: V3, pair: __m256i) -> __m128i {
    let far = simd.avx2._mm256_extracti128_si256::<1>(pair);
    simd.sse2._mm_add_epi32(simd.avx._mm256_castsi256_si128(pair), far)
}

/// Four rows of eight to four rows of four samples.
#[inline(always)]
fn second_pass(simd: V3, [first, second, third, fourth]: [__m256i; 4]) -> [u8; 16] {
    let (avx2, sse2) = (simd.avx2, simd.sse2);
    // Columns of four: the first beside the fifth, which has no part, and so on.
    let (low, low_next) =
        (avx2._mm256_unpacklo_epi32(first, second), avx2._mm256_unpacklo_epi32(third, fourth));
    let (high, high_next) =
        (avx2._mm256_unpackhi_epi32(first, second), avx2._mm256_unpackhi_epi32(third, fourth));
    let zero = simd.avx._mm256_castsi256_si128(avx2._mm256_unpacklo_epi64(low, low_next));
    let one_five = avx2._mm256_unpackhi_epi64(low, low_next);
    let two_six = avx2._mm256_unpacklo_epi64(high, high_next);
    let three_seven = avx2._mm256_unpackhi_epi64(high, high_next);

    let turn = folded(simd, weighted_pair(simd, two_six, TURN[0], TURN[1]));
    let even = sse2._mm_slli_epi32::<{ CONSTANT_BITS + 1 }>(zero);
    let (outer, inner) = (sse2._mm_add_epi32(even, turn), sse2._mm_sub_epi32(even, turn));
    let [odd_outer, odd_inner] = [
        odd_columns(simd, one_five, three_seven, ODD_OUTER),
        odd_columns(simd, one_five, three_seven, ODD_INNER),
    ];

    // The level of grey, limits, and columns to rows.
    let left = sse2._mm_packs_epi32(
        descaled_4(simd, sse2._mm_add_epi32(outer, odd_outer)),
        descaled_4(simd, sse2._mm_add_epi32(inner, odd_inner)),
    );
    let right = sse2._mm_packs_epi32(
        descaled_4(simd, sse2._mm_sub_epi32(inner, odd_inner)),
        descaled_4(simd, sse2._mm_sub_epi32(outer, odd_outer)),
    );
    let level = sse2._mm_set1_epi16(128);
    let columns =
        sse2._mm_packus_epi16(sse2._mm_adds_epi16(left, level), sse2._mm_adds_epi16(right, level));
    let order = sse2._mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    cast(simd.ssse3._mm_shuffle_epi8(columns, order))
}

#[inline(always)]
fn odd_columns(simd: V3, one_five: __m256i, three_seven: __m256i, factors: [i32; 4]) -> __m128i {
    let [one, three, five, seven] = factors;
    let near = weighted_pair(simd, one_five, one, five);
    let far = weighted_pair(simd, three_seven, three, seven);
    folded(simd, simd.avx2._mm256_add_epi32(near, far))
}
