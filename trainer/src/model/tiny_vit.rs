//! TinyViT, the image encoder of MobileSAM and LiteMedSAM, for inference: batch norms
//! are folded into their convolutions and 1x1 convolutions run as linear layers.

use tch::{Kind, Tensor};

use super::config::TinyVitConfig;
use super::dot_product_attention::DotProductAttention;
use super::layers::{
    FoldedConv, LAYER_NORM_EPS, LayerNorm, Linear, Neck, Source, bhwc, gelu_in_place,
};
use super::windows::Windows;
use crate::weights::WeightsError;

/// A TinyViT with SAM's neck.
pub(crate) struct TinyVit {
    stem: [FoldedConv; 2],
    stem_stride: i64,
    stages: Vec<Stage>,
    neck: Neck,
}

struct Stage {
    blocks: Vec<Block>,
    merging: Option<PatchMerging>,
}

enum Block {
    Conv(MbConv),
    Attention(Box<AttentionBlock>),
}

impl TinyVit {
    pub(crate) fn load(source: &Source<'_>, config: &TinyVitConfig) -> Result<Self, WeightsError> {
        let stem = source.at("patch_embed.seq");
        let stage = |index: usize| Stage::load(&source.at("layers").at(index), config, index);
        let stem_stride = if config.stem_size() == config.img_size { 1 } else { 2 };
        Ok(Self {
            stem: [FoldedConv::load(&stem.at("0"))?, FoldedConv::load(&stem.at("2"))?],
            stem_stride,
            stages: (0..4).map(stage).collect::<Result<_, _>>()?,
            neck: Neck::load(&source.at("neck"))?,
        })
    }

    /// (B, 3, S, S) -> image embeddings (B, g, g, 256) and the output of the second stage
    /// (B, g, g, C).
    pub(crate) fn forward(&self, x_bchw: &Tensor) -> (Tensor, Tensor) {
        let [first, second] = &self.stem;
        let x = gelu_in_place(first.forward(&bhwc(x_bchw), self.stem_stride, 1));
        let mut x = second.forward(&x, self.stem_stride, 1);
        let mut interm_embeddings = None;
        for (index, stage) in self.stages.iter().enumerate() {
            x = stage.forward(x);
            if index == 1 {
                interm_embeddings = Some(x.shallow_clone());
            }
        }
        (self.neck.forward(&x), interm_embeddings.expect("there are four stages"))
    }
}

impl Stage {
    fn load(
        source: &Source<'_>,
        config: &TinyVitConfig,
        index: usize,
    ) -> Result<Self, WeightsError> {
        let block = |number: i64| {
            let source = source.at("blocks").at(number);
            Ok(match index {
                0 => Block::Conv(MbConv::load(&source)?),
                _ => Block::Attention(Box::new(AttentionBlock::load(&source, config, index)?)),
            })
        };
        let blocks = (0..config.depths[index]).map(block).collect::<Result<_, WeightsError>>()?;
        let merging = match index {
            3 => None,
            _ => Some(PatchMerging::load(&source.at("downsample"), config.merge_stride(index))?),
        };
        Ok(Self { blocks, merging })
    }

    /// (B, H, W, C) -> (B, H', W', C')
    fn forward(&self, x_bhwc: Tensor) -> Tensor {
        let x = self.blocks.iter().fold(x_bhwc, |x, block| match block {
            Block::Conv(block) => block.forward(&x),
            Block::Attention(block) => block.forward(&x),
        });
        match &self.merging {
            Some(merging) => merging.forward(&x),
            None => x,
        }
    }
}

/// Expand, depthwise convolution, project, with a shortcut.
struct MbConv {
    conv1: Linear,
    conv2: FoldedConv,
    conv3: Linear,
}

impl MbConv {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        Ok(Self {
            conv1: FoldedConv::load(&source.at("conv1"))?.into_linear(),
            conv2: FoldedConv::load(&source.at("conv2"))?,
            conv3: FoldedConv::load(&source.at("conv3"))?.into_linear(),
        })
    }

    /// (B, H, W, C) -> (B, H, W, C)
    fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let hidden = gelu_in_place(self.conv1.forward(x_bhwc));
        let hidden = gelu_in_place(self.conv2.forward(&hidden, 1, hidden.size()[3]));
        gelu_in_place(self.conv3.forward(&hidden).g_add_(x_bhwc))
    }
}

/// Changes the channels and, with stride 2, halves the resolution.
struct PatchMerging {
    conv1: Linear,
    conv2: FoldedConv,
    conv3: Linear,
    stride: i64,
}

impl PatchMerging {
    fn load(source: &Source<'_>, stride: i64) -> Result<Self, WeightsError> {
        Ok(Self {
            conv1: FoldedConv::load(&source.at("conv1"))?.into_linear(),
            conv2: FoldedConv::load(&source.at("conv2"))?,
            conv3: FoldedConv::load(&source.at("conv3"))?.into_linear(),
            stride,
        })
    }

    /// (B, H, W, C) -> (B, H / stride, W / stride, C')
    fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let x = gelu_in_place(self.conv1.forward(x_bhwc));
        let x = gelu_in_place(self.conv2.forward(&x, self.stride, x.size()[3]));
        self.conv3.forward(&x)
    }
}

/// Window attention, a depthwise convolution and a perceptron.
struct AttentionBlock {
    norm: LayerNorm,
    qkv: Linear,
    /// What the padding's zeros become by `norm` and `qkv`: (3 C)
    padding_qkv: Tensor,
    proj: Linear,
    /// (1, heads, window * window, window * window)
    bias: Tensor,
    local_conv: FoldedConv,
    mlp_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    num_heads: i64,
    window_size: i64,
}

impl AttentionBlock {
    fn load(
        source: &Source<'_>,
        config: &TinyVitConfig,
        stage: usize,
    ) -> Result<Self, WeightsError> {
        let window_size = config.window_sizes[stage];
        let (attn, mlp) = (source.at("attn"), source.at("mlp"));
        let norm = LayerNorm::load(&attn.at("norm"), LAYER_NORM_EPS)?;
        let qkv = Linear::load(&attn.at("qkv"))?;
        Ok(Self {
            padding_qkv: attn.hold(qkv.forward(&norm.bias)),
            norm,
            qkv,
            proj: Linear::load(&attn.at("proj"))?,
            bias: attn.hold(window_bias(&attn.tensor("attention_biases")?, window_size)),
            local_conv: FoldedConv::load(&source.at("local_conv"))?,
            mlp_norm: LayerNorm::load(&mlp.at("norm"), LAYER_NORM_EPS)?,
            fc1: Linear::load(&mlp.at("fc1"))?,
            fc2: Linear::load(&mlp.at("fc2"))?,
            num_heads: config.num_heads[stage],
            window_size,
        })
    }

    /// (B, H, W, C) -> (B, H, W, C)
    fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let size = x_bhwc.size();
        let x = self.attention(x_bhwc).g_add_(x_bhwc);
        let mut x = self.local_conv.forward(&x, 1, size[3]);
        let hidden = gelu_in_place(self.fc1.forward(&self.mlp_norm.forward(&x)));
        x.g_add_(&self.fc2.forward(&hidden))
    }

    /// (B, H, W, C) -> (B, H, W, C)
    ///
    /// The published code pads each window's tokens with zeros before the norm; here only the
    /// image's own tokens go through the linear layers.
    fn attention(&self, x_bhwc: &Tensor) -> Tensor {
        let size = x_bhwc.size();
        let windows = Windows::new(size[1], size[2], self.window_size);
        let qkv = self.qkv.forward(&self.norm.forward(x_bhwc));
        let qkv = windows.cut(&qkv, Some(&self.padding_qkv));
        let qkv =
            qkv.view([-1, self.window_size.pow(2), self.num_heads, 3, size[3] / self.num_heads]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.select(3, part).transpose(1, 2));
        let x = DotProductAttention::new(q, k, v).attend_all(&self.bias);
        self.proj.forward(&windows.join(&x.transpose(1, 2).flatten(2, 3)))
    }
}

/// One bias for each distance of rows and columns, laid out by query and key:
/// (heads, window * window) -> (1, heads, window * window, window * window).
fn window_bias(biases: &Tensor, window: i64) -> Tensor {
    let token = Tensor::arange(window * window, (Kind::Int64, biases.device()));
    let (row, column) = (token.floor_divide_scalar(window), token.remainder(window));
    let distance = |at: &Tensor| (at.unsqueeze(1) - at.unsqueeze(0)).abs();
    let index = distance(&row) * window + distance(&column);
    let tokens = window * window;
    biases.index_select(1, &index.flatten(0, 1)).view([1, -1, tokens, tokens])
}
