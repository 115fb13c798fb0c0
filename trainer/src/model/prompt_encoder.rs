//! SAM's prompt encoder: points, boxes and masks to embeddings. Frozen.

use tch::{Device, Kind, Tensor};

use super::config::EMBED_DIM;
use super::layers::{LAYER_NORM_2D_EPS, LayerNorm, Source, bchw, bhwc, gelu};
use crate::weights::WeightsError;

/// Label of the padding point that stands in for a missing box.
const NOT_A_POINT: f64 = -1.0;

/// Prompts of B images or objects, in pixels of the encoder's square input.
#[derive(Debug)]
pub enum PromptBatch {
    /// (B, 4) as x_min, y_min, x_max, y_max.
    Boxes(Tensor),
    /// Points of each object.
    Points {
        /// (B, N, 2) as x, y.
        coords: Tensor,
        /// (B, N): 1 foreground, 0 background, -1 padding.
        labels: Tensor,
    },
    /// (B, 1, 4 g, 4 g) with g the side of the image embedding, 256 for published sizes.
    Masks(Tensor),
    /// Any combination of the above.
    Mixed {
        /// Coordinates (B, N, 2) and labels (B, N).
        points: Option<(Tensor, Tensor)>,
        /// (B, 4)
        boxes: Option<Tensor>,
        /// (B, 1, 4 g, 4 g)
        masks: Option<Tensor>,
    },
}

/// Embedded prompts.
#[derive(Debug)]
pub struct PromptEmbeddings {
    /// (B, N, 256); N may be 0.
    pub sparse_prompt_embeddings: Tensor,
    /// (B, 256, g, g)
    pub dense_prompt_embeddings: Tensor,
}

/// The prompt encoder's weights.
pub(crate) struct PromptEncoder {
    gaussian: Tensor,
    point_embeddings: [Tensor; 4],
    not_a_point_embed: Tensor,
    no_mask_embed: Tensor,
    downscaling: [(Tensor, Tensor); 3],
    norms: [LayerNorm; 2],
    img_size: i64,
    embedding_size: i64,
}

impl PromptEncoder {
    pub(crate) fn load(
        source: &Source<'_>,
        img_size: i64,
        embedding_size: i64,
    ) -> Result<Self, WeightsError> {
        let mask = source.at("mask_downscaling");
        let conv = |index: &str| -> Result<_, WeightsError> {
            Ok((mask.at(index).tensor("weight")?, mask.at(index).tensor("bias")?))
        };
        let point = |index: &str| source.at("point_embeddings").at(index).tensor("weight");
        Ok(Self {
            gaussian: source.tensor("pe_layer.positional_encoding_gaussian_matrix")?,
            point_embeddings: [point("0")?, point("1")?, point("2")?, point("3")?],
            not_a_point_embed: source.tensor("not_a_point_embed.weight")?,
            no_mask_embed: source.tensor("no_mask_embed.weight")?,
            downscaling: [conv("0")?, conv("3")?, conv("6")?],
            norms: [
                LayerNorm::load(&mask.at("1"), LAYER_NORM_2D_EPS)?,
                LayerNorm::load(&mask.at("4"), LAYER_NORM_2D_EPS)?,
            ],
            img_size,
            embedding_size,
        })
    }

    /// Position encoding of every token of the image embedding: (1, g * g, 256).
    pub(crate) fn dense_pe(&self) -> Tensor {
        let side = self.embedding_size;
        let centre = (Tensor::arange(side, (Kind::Float, self.device())) + 0.5) / side as f64;
        let grid = [side, side];
        let x = centre.unsqueeze(0).expand(grid, false);
        let y = centre.unsqueeze(1).expand(grid, false);
        self.encode(&Tensor::stack(&[x, y], -1)).view([1, side * side, EMBED_DIM])
    }

    /// See [`PromptEmbeddings`].
    pub(crate) fn forward(&self, prompts: &PromptBatch) -> PromptEmbeddings {
        match prompts {
            PromptBatch::Boxes(boxes) => self.embed(None, Some(boxes), None),
            PromptBatch::Points { coords, labels } => {
                self.embed(Some((coords, labels)), None, None)
            }
            PromptBatch::Masks(masks) => self.embed(None, None, Some(masks)),
            PromptBatch::Mixed { points, boxes, masks } => {
                let points = points.as_ref().map(|(coords, labels)| (coords, labels));
                self.embed(points, boxes.as_ref(), masks.as_ref())
            }
        }
    }

    fn device(&self) -> Device {
        self.gaussian.device()
    }

    fn embed(
        &self,
        points: Option<(&Tensor, &Tensor)>,
        boxes: Option<&Tensor>,
        masks: Option<&Tensor>,
    ) -> PromptEmbeddings {
        let place = |x: &Tensor| x.to_device(self.device()).to_kind(Kind::Float);
        let points = points.map(|(coords, labels)| (place(coords), place(labels)));
        let (boxes, masks) = (boxes.map(place), masks.map(place));
        let lengths = [points.as_ref().map(|(coords, _)| coords), boxes.as_ref(), masks.as_ref()];
        let batch = lengths.into_iter().flatten().next().map_or(1, |first| first.size()[0]);
        let mut sparse = Vec::new();
        if let Some((coords, labels)) = &points {
            sparse.push(self.embed_points(coords, labels, boxes.is_none()));
        }
        if let Some(boxes) = &boxes {
            sparse.push(self.embed_boxes(boxes));
        }
        let sparse_prompt_embeddings = if sparse.is_empty() {
            Tensor::zeros([batch, 0, EMBED_DIM], (Kind::Float, self.device()))
        } else {
            Tensor::cat(&sparse, 1)
        };
        let side = self.embedding_size;
        let dense_prompt_embeddings = match &masks {
            Some(masks) => self.embed_masks(masks),
            None => self.no_mask_embed.view([1, -1, 1, 1]).expand([batch, -1, side, side], false),
        };
        PromptEmbeddings { sparse_prompt_embeddings, dense_prompt_embeddings }
    }

    /// (B, N, 2), (B, N) -> (B, N, 256), one more token when there is no box.
    fn embed_points(&self, coords: &Tensor, labels: &Tensor, pad: bool) -> Tensor {
        let (mut coords, mut labels) = (coords + 0.5, labels.shallow_clone());
        if pad {
            let batch = coords.size()[0];
            let options = (Kind::Float, self.device());
            coords = Tensor::cat(&[coords, Tensor::zeros([batch, 1, 2], options)], 1);
            labels = Tensor::cat(&[labels, Tensor::full([batch, 1], NOT_A_POINT, options)], 1);
        }
        let labels = labels.unsqueeze(-1);
        let is = |label: f64| labels.eq(label).to_kind(Kind::Float);
        self.encode(&(coords / self.img_size as f64)) * labels.ne(NOT_A_POINT).to_kind(Kind::Float)
            + is(NOT_A_POINT) * &self.not_a_point_embed
            + is(0.0) * &self.point_embeddings[0]
            + is(1.0) * &self.point_embeddings[1]
    }

    /// (B, 4) -> (B, 2, 256)
    fn embed_boxes(&self, boxes: &Tensor) -> Tensor {
        let corners = (boxes + 0.5).reshape([-1, 2, 2]) / self.img_size as f64;
        self.encode(&corners) + Tensor::cat(&self.point_embeddings[2..], 0)
    }

    /// (B, 1, 4 g, 4 g) -> (B, 256, g, g)
    fn embed_masks(&self, masks: &Tensor) -> Tensor {
        let [first, second, last] = &self.downscaling;
        let conv = |x: &Tensor, (weight, bias): &(Tensor, Tensor)| {
            x.conv2d(weight, Some(bias), [weight.size()[2]], [0], [1], 1)
        };
        let activate = |x: &Tensor, norm: &LayerNorm| bchw(&gelu(&norm.forward(&bhwc(x))));
        let x = activate(&conv(masks, first), &self.norms[0]);
        let x = activate(&conv(&x, second), &self.norms[1]);
        conv(&x, last)
    }

    /// Random Fourier features of coordinates in 0..1: (..., 2) -> (..., 256).
    fn encode(&self, coords: &Tensor) -> Tensor {
        let angle = (coords * 2.0 - 1.0).matmul(&self.gaussian) * std::f64::consts::TAU;
        Tensor::cat(&[angle.sin(), angle.cos()], -1)
    }
}
