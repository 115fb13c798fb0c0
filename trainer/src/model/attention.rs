//! Attention of the ViT encoder: over windows or the whole image, with decomposed relative
//! positions.

use tch::{Device, Kind, Tensor};

use super::config::VitConfig;
use super::dot_product_attention::DotProductAttention;
use super::layers::{Linear, Source};
use super::windows::Windows;
use crate::weights::WeightsError;

const NO_BIAS: Option<&Tensor> = None;

/// Multi-head attention.
pub(crate) struct Attention {
    qkv: Linear,
    proj: Linear,
    positions: Option<RelativePositions>,
    num_heads: i64,
    /// None: attends over the whole image.
    window_size: Option<i64>,
}

impl Attention {
    pub(crate) fn load(
        source: &Source<'_>,
        config: &VitConfig,
        window_size: Option<i64>,
    ) -> Result<Self, WeightsError> {
        let side = window_size.unwrap_or(config.img_size / config.patch_size);
        let table = |name| {
            let rel_pos = source.for_products(&source.optional(name)?);
            Some(source.hold(relative_table(&rel_pos, side)))
        };
        let tables = table("rel_pos_h").zip(table("rel_pos_w"));
        let positions = tables.map(|(table_h, table_w)| {
            let spread = spreads_by_product(&table_h).then(|| source.hold(spread(side, &table_h)));
            RelativePositions { table_h, table_w, spread }
        });
        Ok(Self {
            qkv: Linear::load(&source.at("qkv"))?,
            proj: Linear::load(&source.at("proj"))?,
            positions,
            num_heads: config.num_heads,
            window_size,
        })
    }

    /// Whether it attends over the whole image.
    pub(crate) fn is_global(&self) -> bool {
        self.window_size.is_none()
    }

    /// (B, H, W, C) -> (B, H, W, C)
    ///
    /// The published code pads windows with zeros before `qkv`, so what a padding token brings into
    /// its window is the bias of `qkv`. Here only the image's own tokens go through the linear
    /// layers.
    pub(crate) fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let size = x_bhwc.size();
        let (height, width) = (size[1], size[2]);
        let qkv = self.qkv.forward(x_bhwc);
        let attended = match self.window_size {
            None => self.attend(&qkv.flatten(1, 2), height, width).view(&size[..]),
            Some(window) => {
                let windows = Windows::new(height, width, window);
                let cut = windows.cut(&qkv, self.qkv.bias.as_ref());
                drop(qkv);
                windows.join(&self.attend(&cut, window, window))
            }
        };
        self.proj.forward(&attended)
    }

    /// (B, H * W, 3 C) -> (B, H * W, C)
    fn attend(&self, qkv: &Tensor, height: i64, width: i64) -> Tensor {
        let size = qkv.size();
        let (batch, tokens, heads) = (size[0], size[1], self.num_heads);
        let head_dim = size[2] / (3 * heads);
        let qkv = qkv.view([batch, tokens, 3, heads, head_dim]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.select(2, part).transpose(1, 2));
        let Some(positions) = &self.positions else {
            let attended =
                Tensor::scaled_dot_product_attention(&q, &k, &v, NO_BIAS, 0.0, false, None, false);
            return attended.transpose(1, 2).flatten(2, 3);
        };
        let bias = positions.bias(&qkv.select(2, 0), height, width);
        let attention = DotProductAttention::new(q, k, v);
        let attended = qkv.new_empty([batch, tokens, heads, head_dim], (qkv.kind(), qkv.device()));
        let chunk = Chunk::new([batch, heads, height], width, attention.bias_values());
        for [images, heads, rows] in chunk.ranges([batch, heads, height]) {
            let queries = (rows.0 * width, rows.1 * width);
            let mask = bias.rows(images, heads, rows);
            let result = attention.attend([images, heads, queries], mask);
            let part = attended.narrow(0, images.0, images.1).narrow(2, heads.0, heads.1);
            part.narrow(1, queries.0, queries.1).copy_(&result.transpose(1, 2));
        }
        attended.flatten(2, 3)
    }
}

/// First index and number.
type Range = (i64, i64);

/// How many images, heads and rows of queries attend in one call.
struct Chunk([i64; 3]);

impl Chunk {
    /// As many of `[batch, heads, height]` as the bias may have `values`.
    fn new([batch, heads, height]: [i64; 3], width: i64, values: i64) -> Self {
        let row = width * height * width;
        let rows = (values / row).clamp(1, height);
        let heads = (values / (row * height)).clamp(1, heads);
        Self([(values / (row * height * heads)).clamp(1, batch), heads, rows])
    }

    /// All chunks of something of `sizes`.
    fn ranges(&self, sizes: [i64; 3]) -> Vec<[Range; 3]> {
        let along = |dim: usize| {
            let (size, step) = (sizes[dim], self.0[dim]);
            (0..size).step_by(step as usize).map(move |first| (first, step.min(size - first)))
        };
        let mut ranges = Vec::new();
        for images in along(0) {
            for heads in along(1) {
                ranges.extend(along(2).map(|rows| [images, heads, rows]));
            }
        }
        ranges
    }
}

/// Relative position tables laid out by query and key coordinate.
struct RelativePositions {
    /// (height, d, height): query row, channel, key row
    table_h: Tensor,
    /// (width, d, width): query column, channel, key column
    table_w: Tensor,
    /// (height + width, height * width), see [`spread`]; where additions are slower.
    spread: Option<Tensor>,
}

impl RelativePositions {
    /// What queries (B, H * W, heads, d) add to their scores by the keys' rows and columns.
    fn bias(&self, q: &Tensor, height: i64, width: i64) -> RelativeBias {
        let size = q.size();
        let (batch, heads, head_dim) = (size[0], size[2], size[3]);
        let q = q.to_kind(self.table_h.kind()).view([batch, height, width, heads, head_dim]);
        // One product for each coordinate of the query, over all images, heads and the other one.
        let by_row = q.permute([1, 0, 3, 2, 4]).reshape([height, -1, head_dim]);
        let by_row = by_row.bmm(&self.table_h).view([height, batch, heads, width, height]);
        let by_column = q.permute([2, 0, 3, 1, 4]).reshape([width, -1, head_dim]);
        let by_column = by_column.bmm(&self.table_w).view([width, batch, heads, height, width]);
        RelativeBias {
            by_row: by_row.permute([1, 2, 0, 3, 4]),
            by_column: by_column.permute([1, 2, 3, 0, 4]),
            spread: self.spread.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// Widest window whose biases are spread over its keys by a product.
const WIDEST_SPREAD: i64 = 32;

/// libtorch adds along the last dimension, of 14 keys in SAM's windows: in bfloat16, a product with
/// zeros and ones is four times as fast, and the sum of two numbers and zeros the same. In float32
/// it is slower.
fn spreads_by_product(table: &Tensor) -> bool {
    let is_bf16 = (table.kind(), table.device()) == (Kind::BFloat16, Device::Cpu);
    is_bf16 && table.size()[0] <= WIDEST_SPREAD
}

/// (2 * side, side * side): what is known of key rows, then of key columns, to keys.
fn spread(side: i64, like: &Tensor) -> Tensor {
    let one = Tensor::eye(side, (like.kind(), like.device()));
    let by_row = one.unsqueeze(2).expand([side, side, side], false);
    let by_column = one.unsqueeze(1).expand([side, side, side], false);
    Tensor::cat(&[by_row, by_column], 0).flatten(1, 2)
}

/// The two terms of the position bias.
struct RelativeBias {
    /// (B, heads, H, W, key rows)
    by_row: Tensor,
    /// (B, heads, H, W, key columns)
    by_column: Tensor,
    spread: Option<Tensor>,
}

impl RelativeBias {
    /// The additive mask (images, heads, rows * W, H * W) of a chunk.
    fn rows(&self, images: Range, heads: Range, rows: Range) -> Tensor {
        let part = |x: &Tensor| {
            x.narrow(0, images.0, images.1).narrow(1, heads.0, heads.1).narrow(2, rows.0, rows.1)
        };
        let (by_row, by_column) = (part(&self.by_row), part(&self.by_column));
        let (height, width) = (by_row.size()[4], by_column.size()[4]);
        if let Some(spread) = &self.spread {
            let both = Tensor::cat(&[by_row, by_column], 4).view([-1, height + width]);
            let shape = [images.1, heads.1, rows.1 * width, height * width];
            return both.matmul(spread).view(shape);
        }
        // Into memory of its own: a result laid out like `by_row` would have to be copied.
        let shape = [images.1, heads.1, rows.1, width, height, width];
        let mask = by_row.new_empty(shape, (by_row.kind(), by_row.device()));
        let _ = by_row.unsqueeze(5).add_out(&mask, &by_column.unsqueeze(4));
        mask.view([images.1, heads.1, rows.1 * width, height * width])
    }
}

/// (2 * size - 1, d) -> (size, d, size): entry (q, :, k) is the row of `rel_pos` for q - k.
fn relative_table(rel_pos: &Tensor, size: i64) -> Tensor {
    let range = Tensor::arange(size, (Kind::Int64, rel_pos.device()));
    let index = range.unsqueeze(1) - range.unsqueeze(0) + (size - 1);
    let table = rel_pos.index_select(0, &index.flatten(0, 1)).view([size, size, -1]);
    table.transpose(1, 2).contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_spreads_biases_as_an_addition_does() {
        let random = |size: [i64; 5]| Tensor::randn(size, (Kind::BFloat16, Device::Cpu));
        let (batch, heads, side) = (2, 3, 5);
        let added = RelativeBias {
            by_row: random([batch, heads, side, side, side]),
            by_column: random([batch, heads, side, side, side]),
            spread: None,
        };
        let spread = RelativeBias {
            by_row: added.by_row.shallow_clone(),
            by_column: added.by_column.shallow_clone(),
            spread: Some(spread(side, &added.by_row)),
        };
        let [added, spread] = [added, spread].map(|bias| bias.rows((1, 1), (0, 2), (2, 3)));
        assert_eq!(spread.size(), [1, 2, 3 * side, side * side]);
        assert_eq!(spread, added);
    }

    #[test]
    fn chunks_cover_everything_once_and_stay_within_their_bound() {
        const VALUES: i64 = 1 << 22;
        for sizes in [[1, 12, 64], [25, 12, 14], [2, 1, 3]] {
            let chunk = Chunk::new(sizes, sizes[2], VALUES);
            let ranges = chunk.ranges(sizes);
            let count = |ranges: &[[Range; 3]]| -> i64 {
                ranges.iter().map(|range| range.iter().map(|part| part.1).product::<i64>()).sum()
            };
            assert_eq!(count(&ranges), sizes.iter().product::<i64>());
            let row = sizes[2].pow(3);
            assert!(ranges.iter().all(|range| count(&[*range]) * row <= VALUES));
        }
    }
}
