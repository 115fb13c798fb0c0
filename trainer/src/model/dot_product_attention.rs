//! Softmax attention with an additive bias: `softmax(q k^T / sqrt(d) + bias) v`.
//!
//! libtorch's fused attention is as fast as anything, but for bfloat16 on CPUs that multiply it: there
//! its products go through a library that does not use those instructions on every processor, while
//! general matrix products do. So the scores are written out, into the memory of the bias: 1.8 times
//! as fast for 4,096 keys and twice for windows of 14 x 14 (AMD, AVX-512 BF16).

use tch::{Device, Kind, Tensor};

use super::precision::multiplies_bf16;

/// Values of the position bias that are held at once on a CPU: 16 MiB of float32, which its last
/// cache keeps between the addition that writes and the attention that reads them. The bias of a
/// whole global block would be heads * 4096 * 4096 values an image.
const BIAS_VALUES_CPU: i64 = 1 << 22;
/// The same where attention writes its scores into that memory: 3 % faster than with twice as many.
const SCORES_CPU: i64 = 1 << 21;
/// The same on a GPU, where few large calls matter more.
const BIAS_VALUES_GPU: i64 = 1 << 28;

/// Queries, keys and values of images or windows.
pub(crate) struct DotProductAttention {
    /// (B, heads, T, d); divided by sqrt(d) where scores are written out.
    q_bhtd: Tensor,
    k_bhtd: Tensor,
    v_bhtd: Tensor,
    writes_scores: bool,
}

impl DotProductAttention {
    /// (B, heads, T, d) each, of any layout in memory.
    pub(crate) fn new(q_bhtd: Tensor, k_bhtd: Tensor, v_bhtd: Tensor) -> Self {
        let writes_scores = q_bhtd.kind() == Kind::BFloat16
            && q_bhtd.device() == Device::Cpu
            && multiplies_bf16(Device::Cpu);
        if writes_scores {
            Self::with_scores(&q_bhtd, &k_bhtd, &v_bhtd)
        } else {
            Self { q_bhtd, k_bhtd, v_bhtd, writes_scores }
        }
    }

    fn with_scores(q_bhtd: &Tensor, k_bhtd: &Tensor, v_bhtd: &Tensor) -> Self {
        let [mut q_bhtd, k_bhtd, v_bhtd] = [q_bhtd, k_bhtd, v_bhtd].map(contiguous_copy);
        let head_dim = q_bhtd.size()[3] as f64;
        let _ = q_bhtd.g_mul_scalar_(head_dim.powf(-0.5));
        Self { q_bhtd, k_bhtd, v_bhtd, writes_scores: true }
    }

    /// Values that the bias of one call of [`Self::attend`] should have at most.
    pub(crate) fn bias_values(&self) -> i64 {
        match self.q_bhtd.device() {
            Device::Cpu if self.writes_scores => SCORES_CPU,
            Device::Cpu => BIAS_VALUES_CPU,
            _ => BIAS_VALUES_GPU,
        }
    }

    /// What all queries attend to: (B, heads, T, d). `bias` (1, heads, T, T) is that of each image.
    pub(crate) fn attend_all(&self, bias: &Tensor) -> Tensor {
        let size = self.q_bhtd.size();
        let chunk = [(0, size[0]), (0, size[1]), (0, size[2])];
        if !self.writes_scores {
            return self.attend(chunk, bias.shallow_clone());
        }
        self.attend(chunk, contiguous_copy(&bias.expand([size[0], -1, -1, -1], false)))
    }

    /// What the queries `first..first + number` of `heads` heads of `images` images attend to, each given
    /// by the first and their number: (images, heads, number, d). Fewer heads than all only of one image.
    ///
    /// `bias` (images, heads, number, T) may be overwritten.
    pub(crate) fn attend(&self, chunk: [(i64, i64); 3], bias: Tensor) -> Tensor {
        let [images, heads, queries] = chunk;
        let part = |x: &Tensor| x.narrow(0, images.0, images.1).narrow(1, heads.0, heads.1);
        let q = part(&self.q_bhtd).narrow(2, queries.0, queries.1);
        let (k, v) = (part(&self.k_bhtd), part(&self.v_bhtd));
        if !self.writes_scores {
            let bias = Some(&bias);
            return Tensor::scaled_dot_product_attention(&q, &k, &v, bias, 0.0, false, None, false);
        }
        let size = q.size();
        let [q, k, v, mut scores] = [q, k, v, bias].map(|x| x.flatten(0, 1));
        let _ = scores.baddbmm_(&q, &k.transpose(1, 2));
        let _ = scores.internal_softmax_out(&scores, -1, false);
        scores.bmm(&v).view(&size[..])
    }
}

/// Memory of its own, whatever the layout of `x`.
fn contiguous_copy(x: &Tensor) -> Tensor {
    let mut copy = x.new_empty(x.size(), (x.kind(), x.device()));
    copy.copy_(x);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_scores_give_what_fused_attention_gives() {
        let random = |size: [i64; 4]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let (batch, tokens, heads, head_dim) = (3, 20, 4, 16);
        // As they come: tokens before heads.
        let [q, k, v] = [0; 3].map(|_| random([batch, tokens, heads, head_dim]).transpose(1, 2));
        let bias = random([batch, heads, tokens, tokens]);
        for kind in [Kind::Float, Kind::BFloat16] {
            let [q, k, v, bias] = [&q, &k, &v, &bias].map(|x| x.to_kind(kind));
            let expected = {
                let [q, k, v, bias] = [&q, &k, &v, &bias].map(|x| x.to_kind(Kind::Float));
                let bias = Some(&bias);
                Tensor::scaled_dot_product_attention(&q, &k, &v, bias, 0.0, false, None, false)
            };
            let attention = DotProductAttention::with_scores(&q, &k, &v);
            for chunk in
                [[(0, 3), (0, 4), (0, 20)], [(1, 2), (0, 4), (5, 7)], [(2, 1), (1, 2), (3, 17)]]
            {
                let part = |x: &Tensor| {
                    let [images, heads, queries] = chunk;
                    let x = x.narrow(0, images.0, images.1).narrow(1, heads.0, heads.1);
                    x.narrow(2, queries.0, queries.1)
                };
                let found = attention.attend(chunk, part(&bias).copy()).to_kind(Kind::Float);
                let error = (found - part(&expected)).abs().max().double_value(&[]);
                // Scores and weights are rounded to the type's 8 (24) bits.
                let tolerance = if kind == Kind::Float { 1e-5 } else { 3e-2 };
                assert!(error < tolerance, "{kind:?} {chunk:?}: {error}");
            }
        }
    }
}
