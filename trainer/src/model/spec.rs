//! Every tensor of a model: published name, shape, first values. Loading,
//! checking and random initialisation all read this one list.

use super::config::{
    DECODER_DEPTH, DECODER_MLP_DIM, EMBED_DIM, EncoderConfig, MASK_IN_CHANS, NUM_SAM_MASK_TOKENS,
    Stem, TinyVitConfig, VitConfig,
};
use super::init::Init;

/// Classes of the unused ImageNet head that MobileSAM's checkpoints carry.
const HEAD_CLASSES: i64 = 1000;
/// Deviation of position tables in a random model; published code trains them from zero.
const POSITION_DEVIATION: f64 = 0.02;

/// One tensor that a state dict must, or may, hold.
#[derive(Debug, Clone)]
pub(crate) struct TensorSpec {
    /// Published name.
    pub(crate) name: String,
    /// Shape.
    pub(crate) shape: Vec<i64>,
    /// First values.
    pub(crate) init: Init,
    /// Whether a checkpoint may lack it.
    pub(crate) optional: bool,
}

/// Collects specs under a prefix.
#[derive(Default)]
struct List(Vec<TensorSpec>);

impl List {
    fn add(&mut self, name: String, shape: &[i64], init: Init) {
        self.0.push(TensorSpec { name, shape: shape.to_vec(), init, optional: false });
    }

    /// A weight with a bias of its first (linear, convolution) dimension.
    fn layer(&mut self, name: &str, shape: &[i64], bias: bool) {
        let fan_in = shape[1..].iter().product();
        self.add(format!("{name}.weight"), shape, Init::FanIn(fan_in));
        if bias {
            self.add(format!("{name}.bias"), &shape[..1], Init::FanIn(fan_in));
        }
    }

    /// A transposed 2x2 convolution, weight (inputs, outputs, 2, 2).
    fn upscale(&mut self, name: &str, inputs: i64, outputs: i64) {
        let fan_in = outputs * 4;
        self.add(format!("{name}.weight"), &[inputs, outputs, 2, 2], Init::FanIn(fan_in));
        self.add(format!("{name}.bias"), &[outputs], Init::FanIn(fan_in));
    }

    fn norm(&mut self, name: &str, dim: i64) {
        self.add(format!("{name}.weight"), &[dim], Init::Ones);
        self.add(format!("{name}.bias"), &[dim], Init::Zeros);
    }

    fn embedding(&mut self, name: &str, rows: i64) {
        self.add(format!("{name}.weight"), &[rows, EMBED_DIM], Init::Normal(1.0));
    }

    /// A convolution without bias, `c`, and its batch norm, `bn`.
    fn conv_bn(&mut self, name: &str, shape: &[i64]) {
        self.layer(&format!("{name}.c"), shape, false);
        let dim = &shape[..1];
        self.add(format!("{name}.bn.weight"), dim, Init::Ones);
        self.add(format!("{name}.bn.bias"), dim, Init::Zeros);
        self.add(format!("{name}.bn.running_mean"), dim, Init::Normal(0.1));
        self.add(format!("{name}.bn.running_var"), dim, Init::Uniform(0.5, 1.5));
        self.add(format!("{name}.bn.num_batches_tracked"), &[], Init::Count);
    }

    /// Three linear layers.
    fn perceptron(&mut self, name: &str, hidden: i64, output: i64) {
        self.layer(&format!("{name}.layers.0"), &[hidden, EMBED_DIM], true);
        self.layer(&format!("{name}.layers.1"), &[hidden, hidden], true);
        self.layer(&format!("{name}.layers.2"), &[output, hidden], true);
    }

    /// Query, key, value and output projections of the two-way transformer.
    fn attention(&mut self, name: &str, inner: i64) {
        for projection in ["q_proj", "k_proj", "v_proj"] {
            self.layer(&format!("{name}.{projection}"), &[inner, EMBED_DIM], true);
        }
        self.layer(&format!("{name}.out_proj"), &[EMBED_DIM, inner], true);
    }
}

/// Every tensor of SAM without the HQ part.
pub(crate) fn sam_specs(config: &EncoderConfig) -> Vec<TensorSpec> {
    let mut list = List::default();
    match config {
        EncoderConfig::Vit(vit) => vit_specs(&mut list, vit),
        EncoderConfig::TinyVit(tiny) => tiny_vit_specs(&mut list, tiny),
    }
    neck_specs(&mut list, config);
    prompt_encoder_specs(&mut list);
    mask_decoder_specs(&mut list);
    list.0
}

/// The 25 trained tensors, in the order of the published module.
pub(crate) fn hq_specs(config: &EncoderConfig) -> Vec<TensorSpec> {
    let mut list = List::default();
    let (quarter, eighth) = (EMBED_DIM / 4, EMBED_DIM / 8);
    list.embedding("mask_decoder.hf_token", 1);
    list.perceptron("mask_decoder.hf_mlp", EMBED_DIM, eighth);
    list.upscale("mask_decoder.compress_vit_feat.0", config.vit_dim(), EMBED_DIM);
    list.norm("mask_decoder.compress_vit_feat.1", EMBED_DIM);
    list.upscale("mask_decoder.compress_vit_feat.3", EMBED_DIM, eighth);
    list.upscale("mask_decoder.embedding_encoder.0", EMBED_DIM, quarter);
    list.norm("mask_decoder.embedding_encoder.1", quarter);
    list.upscale("mask_decoder.embedding_encoder.3", quarter, eighth);
    list.layer("mask_decoder.embedding_maskfeature.0", &[quarter, eighth, 3, 3], true);
    list.norm("mask_decoder.embedding_maskfeature.1", quarter);
    list.layer("mask_decoder.embedding_maskfeature.3", &[eighth, quarter, 3, 3], true);
    list.0
}

fn vit_specs(list: &mut List, vit: &VitConfig) {
    let (dim, side) = (vit.embed_dim, vit.img_size / vit.patch_size);
    let hidden = vit.mlp_dim();
    let position = Init::Normal(POSITION_DEVIATION);
    list.add("image_encoder.pos_embed".into(), &[1, side, side, dim], position);
    list.layer("image_encoder.patch_embed.proj", &[dim, 3, vit.patch_size, vit.patch_size], true);
    for index in 0..vit.depth {
        let block = format!("image_encoder.blocks.{index}");
        let reach = if vit.global_attn_indexes.contains(&index) { side } else { vit.window_size };
        list.norm(&format!("{block}.norm1"), dim);
        list.layer(&format!("{block}.attn.qkv"), &[3 * dim, dim], vit.qkv_bias);
        list.layer(&format!("{block}.attn.proj"), &[dim, dim], true);
        if vit.use_rel_pos {
            let shape = [2 * reach - 1, dim / vit.num_heads];
            list.add(format!("{block}.attn.rel_pos_h"), &shape, position);
            list.add(format!("{block}.attn.rel_pos_w"), &shape, position);
        }
        list.norm(&format!("{block}.norm2"), dim);
        list.layer(&format!("{block}.mlp.lin1"), &[hidden, dim], true);
        list.layer(&format!("{block}.mlp.lin2"), &[dim, hidden], true);
    }
}

fn tiny_vit_specs(list: &mut List, tiny: &TinyVitConfig) {
    let dims = tiny.embed_dims;
    let kernel = if tiny.stem == Stem::Stride4 { 3 } else { 1 };
    list.conv_bn("image_encoder.patch_embed.seq.0", &[dims[0] / 2, 3, kernel, kernel]);
    list.conv_bn("image_encoder.patch_embed.seq.2", &[dims[0], dims[0] / 2, kernel, kernel]);
    for stage in 0..4 {
        let dim = dims[stage];
        for block in 0..tiny.depths[stage] {
            let name = format!("image_encoder.layers.{stage}.blocks.{block}");
            if stage == 0 {
                list.conv_bn(&format!("{name}.conv1"), &[4 * dim, dim, 1, 1]);
                list.conv_bn(&format!("{name}.conv2"), &[4 * dim, 1, 3, 3]);
                list.conv_bn(&format!("{name}.conv3"), &[dim, 4 * dim, 1, 1]);
            } else {
                tiny_block_specs(list, &name, dim, tiny.num_heads[stage], tiny.window_sizes[stage]);
            }
        }
        if stage < 3 {
            let (name, out) = (format!("image_encoder.layers.{stage}.downsample"), dims[stage + 1]);
            list.conv_bn(&format!("{name}.conv1"), &[out, dim, 1, 1]);
            list.conv_bn(&format!("{name}.conv2"), &[out, 1, 3, 3]);
            list.conv_bn(&format!("{name}.conv3"), &[out, out, 1, 1]);
        }
    }
    let head = list.0.len();
    list.norm("image_encoder.norm_head", dims[3]);
    list.layer("image_encoder.head", &[HEAD_CLASSES, dims[3]], true);
    list.0[head..].iter_mut().for_each(|spec| spec.optional = true);
}

fn tiny_block_specs(list: &mut List, name: &str, dim: i64, heads: i64, window: i64) {
    let offsets = [heads, window * window];
    list.add(format!("{name}.attn.attention_biases"), &offsets, Init::Normal(POSITION_DEVIATION));
    list.norm(&format!("{name}.attn.norm"), dim);
    list.layer(&format!("{name}.attn.qkv"), &[3 * dim, dim], true);
    list.layer(&format!("{name}.attn.proj"), &[dim, dim], true);
    list.norm(&format!("{name}.mlp.norm"), dim);
    list.layer(&format!("{name}.mlp.fc1"), &[4 * dim, dim], true);
    list.layer(&format!("{name}.mlp.fc2"), &[dim, 4 * dim], true);
    list.conv_bn(&format!("{name}.local_conv"), &[dim, 1, 3, 3]);
}

fn neck_specs(list: &mut List, config: &EncoderConfig) {
    let dim = match config {
        EncoderConfig::Vit(vit) => vit.embed_dim,
        EncoderConfig::TinyVit(tiny) => tiny.embed_dims[3],
    };
    list.layer("image_encoder.neck.0", &[EMBED_DIM, dim, 1, 1], false);
    list.norm("image_encoder.neck.1", EMBED_DIM);
    list.layer("image_encoder.neck.2", &[EMBED_DIM, EMBED_DIM, 3, 3], false);
    list.norm("image_encoder.neck.3", EMBED_DIM);
}

fn prompt_encoder_specs(list: &mut List) {
    let gaussian = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
    list.add(gaussian.into(), &[2, EMBED_DIM / 2], Init::Normal(1.0));
    for index in 0..4 {
        list.embedding(&format!("prompt_encoder.point_embeddings.{index}"), 1);
    }
    list.embedding("prompt_encoder.not_a_point_embed", 1);
    let quarter = MASK_IN_CHANS / 4;
    list.layer("prompt_encoder.mask_downscaling.0", &[quarter, 1, 2, 2], true);
    list.norm("prompt_encoder.mask_downscaling.1", quarter);
    list.layer("prompt_encoder.mask_downscaling.3", &[MASK_IN_CHANS, quarter, 2, 2], true);
    list.norm("prompt_encoder.mask_downscaling.4", MASK_IN_CHANS);
    list.layer("prompt_encoder.mask_downscaling.6", &[EMBED_DIM, MASK_IN_CHANS, 1, 1], true);
    list.embedding("prompt_encoder.no_mask_embed", 1);
}

fn mask_decoder_specs(list: &mut List) {
    for index in 0..DECODER_DEPTH {
        let layer = format!("mask_decoder.transformer.layers.{index}");
        list.attention(&format!("{layer}.self_attn"), EMBED_DIM);
        list.norm(&format!("{layer}.norm1"), EMBED_DIM);
        list.attention(&format!("{layer}.cross_attn_token_to_image"), EMBED_DIM / 2);
        list.norm(&format!("{layer}.norm2"), EMBED_DIM);
        list.layer(&format!("{layer}.mlp.lin1"), &[DECODER_MLP_DIM, EMBED_DIM], true);
        list.layer(&format!("{layer}.mlp.lin2"), &[EMBED_DIM, DECODER_MLP_DIM], true);
        list.norm(&format!("{layer}.norm3"), EMBED_DIM);
        list.norm(&format!("{layer}.norm4"), EMBED_DIM);
        list.attention(&format!("{layer}.cross_attn_image_to_token"), EMBED_DIM / 2);
    }
    list.attention("mask_decoder.transformer.final_attn_token_to_image", EMBED_DIM / 2);
    list.norm("mask_decoder.transformer.norm_final_attn", EMBED_DIM);
    list.embedding("mask_decoder.iou_token", 1);
    list.embedding("mask_decoder.mask_tokens", NUM_SAM_MASK_TOKENS);
    list.upscale("mask_decoder.output_upscaling.0", EMBED_DIM, EMBED_DIM / 4);
    list.norm("mask_decoder.output_upscaling.1", EMBED_DIM / 4);
    list.upscale("mask_decoder.output_upscaling.3", EMBED_DIM / 4, EMBED_DIM / 8);
    for index in 0..NUM_SAM_MASK_TOKENS {
        let name = format!("mask_decoder.output_hypernetworks_mlps.{index}");
        list.perceptron(&name, EMBED_DIM, EMBED_DIM / 8);
    }
    list.perceptron("mask_decoder.iou_prediction_head", EMBED_DIM, NUM_SAM_MASK_TOKENS);
}
