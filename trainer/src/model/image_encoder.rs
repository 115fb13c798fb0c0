//! SAM's image encoder: a plain ViT with windowed and global attention blocks.

use tch::Tensor;

use super::config::VitConfig;
use super::layers::{
    LayerNorm, Linear, Neck, Source, bhwc, gelu_in_place, window_partition, window_unpartition,
};
use crate::weights::WeightsError;

/// Rows of query tokens whose position bias is held at once in a global block:
/// a bias for all rows would need heads * 4096 * 4096 values an image.
const GLOBAL_QUERY_ROWS: i64 = 8;

/// The ViT of SAM.
pub(crate) struct ImageEncoderVit {
    patch_weight: Tensor,
    patch_bias: Option<Tensor>,
    pos_embed: Tensor,
    patch_size: i64,
    blocks: Vec<Block>,
    neck: Neck,
}

impl ImageEncoderVit {
    pub(crate) fn load(source: &Source<'_>, config: &VitConfig) -> Result<Self, WeightsError> {
        let block = |index: i64| Block::load(&source.at("blocks").at(index), config, index);
        Ok(Self {
            patch_weight: source.tensor("patch_embed.proj.weight")?,
            patch_bias: source.optional("patch_embed.proj.bias"),
            pos_embed: source.tensor("pos_embed")?,
            patch_size: config.patch_size,
            blocks: (0..config.depth).map(block).collect::<Result<_, _>>()?,
            neck: Neck::load(&source.at("neck"))?,
        })
    }

    /// (B, 3, S, S) -> image embeddings (B, g, g, 256) and the output of the first
    /// global block (B, g, g, C).
    pub(crate) fn forward(&self, x_bchw: &Tensor) -> (Tensor, Tensor) {
        let stride = [self.patch_size];
        let x = x_bchw.conv2d(&self.patch_weight, self.patch_bias.as_ref(), stride, [0], [1], 1);
        let mut x = bhwc(&x) + &self.pos_embed;
        let mut interm_embeddings = None;
        for block in &self.blocks {
            x = block.forward(&x);
            if block.window_size.is_none() {
                interm_embeddings.get_or_insert_with(|| x.shallow_clone());
            }
        }
        let interm_embeddings = interm_embeddings.expect("the configuration has a global block");
        (self.neck.forward(&x), interm_embeddings)
    }
}

/// One transformer block.
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    /// None: attends over the whole image.
    window_size: Option<i64>,
}

impl Block {
    fn load(source: &Source<'_>, config: &VitConfig, index: i64) -> Result<Self, WeightsError> {
        let is_global = config.global_attn_indexes.contains(&index);
        Ok(Self {
            norm1: LayerNorm::load(&source.at("norm1"), config.norm_eps)?,
            attn: Attention::load(&source.at("attn"), config.num_heads)?,
            norm2: LayerNorm::load(&source.at("norm2"), config.norm_eps)?,
            lin1: Linear::load(&source.at("mlp.lin1"))?,
            lin2: Linear::load(&source.at("mlp.lin2"))?,
            window_size: (!is_global).then_some(config.window_size),
        })
    }

    /// (B, H, W, C) -> (B, H, W, C)
    fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let normed = self.norm1.forward(x_bhwc);
        let size = normed.size();
        let attended = match self.window_size {
            None => self.attn.forward(&normed.flatten(1, 2), (size[1], size[2])).view(&size[..]),
            Some(window) => {
                let (windows, padded) = window_partition(&normed, window);
                let windows = self.attn.forward(&windows, (window, window));
                window_unpartition(&windows, window, padded, (size[1], size[2]))
            }
        };
        let x = x_bhwc + attended;
        let hidden = gelu_in_place(self.lin1.forward(&self.norm2.forward(&x)));
        x + self.lin2.forward(&hidden)
    }
}

/// Multi-head attention with decomposed relative positions.
struct Attention {
    qkv: Linear,
    proj: Linear,
    /// (2 * height - 1, d) and (2 * width - 1, d)
    rel_pos: Option<(Tensor, Tensor)>,
    num_heads: i64,
}

impl Attention {
    fn load(source: &Source<'_>, num_heads: i64) -> Result<Self, WeightsError> {
        Ok(Self {
            qkv: Linear::load(&source.at("qkv"))?,
            proj: Linear::load(&source.at("proj"))?,
            rel_pos: source.optional("rel_pos_h").zip(source.optional("rel_pos_w")),
            num_heads,
        })
    }

    /// (B, H * W, C) -> (B, H * W, C)
    fn forward(&self, x: &Tensor, (height, width): (i64, i64)) -> Tensor {
        let size = x.size();
        let (batch, tokens, channels) = (size[0], size[1], size[2]);
        let qkv = self.qkv.forward(x).view([batch, tokens, 3, self.num_heads, -1]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.select(2, part).transpose(1, 2));
        let attend = |q: &Tensor, mask: Option<Tensor>| {
            Tensor::scaled_dot_product_attention(q, &k, &v, mask, 0.0, false, None, false)
        };
        let attended = match &self.rel_pos {
            None => attend(&q, None),
            Some((rel_pos_h, rel_pos_w)) => {
                let bias = RelativeBias::new(rel_pos_h, rel_pos_w, height, width);
                let is_small = batch > 1 && tokens <= 1024;
                let rows = if is_small { height } else { GLOBAL_QUERY_ROWS.min(height) };
                let mut parts = Vec::new();
                for first in (0..height).step_by(rows as usize) {
                    let rows = rows.min(height - first);
                    let q = q.narrow(2, first * width, rows * width);
                    parts.push(attend(&q, Some(bias.rows(&q, first, rows))));
                }
                if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 2) }
            }
        };
        self.proj.forward(&attended.transpose(1, 2).reshape([batch, tokens, channels]))
    }
}

/// Relative position tables laid out by query and key coordinate.
struct RelativeBias {
    /// (height, d, height): query row, channel, key row
    table_h: Tensor,
    /// (width, d, width): query column, channel, key column
    table_w: Tensor,
}

impl RelativeBias {
    fn new(rel_pos_h: &Tensor, rel_pos_w: &Tensor, height: i64, width: i64) -> Self {
        Self {
            table_h: relative_table(rel_pos_h, height),
            table_w: relative_table(rel_pos_w, width),
        }
    }

    /// The additive mask of `rows` rows of queries (B, heads, rows * W, d), the first of
    /// which is row `first`: (B, heads, rows * W, H * W).
    fn rows(&self, q: &Tensor, first: i64, rows: i64) -> Tensor {
        let (height, width) = (self.table_h.size()[0], self.table_w.size()[0]);
        let size = q.size();
        let q = q.reshape([size[0] * size[1], rows, width, size[3]]);
        let by_row = q.matmul(&self.table_h.narrow(0, first, rows)).unsqueeze(4);
        let by_column = q.transpose(1, 2).matmul(&self.table_w).transpose(1, 2).unsqueeze(3);
        (by_row + by_column).view([size[0], size[1], rows * width, height * width])
    }
}

/// (2 * size - 1, d) -> (size, d, size): entry (q, :, k) is the row of `rel_pos` for q - k.
fn relative_table(rel_pos: &Tensor, size: i64) -> Tensor {
    let range = Tensor::arange(size, (tch::Kind::Int64, rel_pos.device()));
    let index = range.unsqueeze(1) - range.unsqueeze(0) + (size - 1);
    rel_pos.index_select(0, &index.flatten(0, 1)).view([size, size, -1]).transpose(1, 2)
}
