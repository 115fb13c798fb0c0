//! Initial values that depend only on a seed and a tensor's name, so every
//! rank, thread count and load order starts from the same numbers.

use tch::{Kind, Tensor};

/// How a tensor gets its first values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    /// Normal with mean 0 and this deviation.
    Normal(f64),
    /// Uniform in plus or minus `1 / sqrt(fan_in)`: PyTorch's default for the
    /// weights and biases of linear and convolution layers.
    FanIn(i64),
    /// Uniform between two values.
    Uniform(f64, f64),
    /// All ones.
    Ones,
    /// All zeros.
    Zeros,
    /// An integer zero without dimensions (`num_batches_tracked`).
    Count,
}

/// SplitMix64: a small, fast, well-mixed generator with 64 bits of state.
struct SplitMix64(u64);

impl SplitMix64 {
    /// A stream for one tensor: FNV-1a of the name, mixed with the seed.
    fn new(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut generator = Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        generator.next();
        generator
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in the open interval (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// The first values of the tensor called `name`.
pub(crate) fn initial(seed: u64, name: &str, shape: &[i64], init: Init) -> Tensor {
    let options = (Kind::Float, tch::Device::Cpu);
    let mut generator = SplitMix64::new(seed, name);
    let numel: i64 = shape.iter().product();
    let mut filled = |mut value: Box<dyn FnMut(&mut SplitMix64) -> f64>| {
        let values: Vec<f32> = (0..numel).map(|_| value(&mut generator) as f32).collect();
        Tensor::from_slice(&values).view(shape)
    };
    match init {
        Init::Normal(deviation) => filled(Box::new(move |g| deviation * g.normal())),
        Init::FanIn(fan_in) => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            filled(Box::new(move |g| bound * (2.0 * g.uniform() - 1.0)))
        }
        Init::Uniform(low, high) => filled(Box::new(move |g| low + (high - low) * g.uniform())),
        Init::Ones => Tensor::ones(shape, options),
        Init::Zeros => Tensor::zeros(shape, options),
        Init::Count => Tensor::zeros(shape, (Kind::Int64, tch::Device::Cpu)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let a = initial(1, "x", &[100], Init::Normal(1.0));
        assert_eq!(a, initial(1, "x", &[100], Init::Normal(1.0)));
        assert_ne!(a, initial(2, "x", &[100], Init::Normal(1.0)));
        assert_ne!(a, initial(1, "y", &[100], Init::Normal(1.0)));
    }

    #[test]
    fn moments_are_those_asked_for() {
        let normal = initial(3, "n", &[20_000], Init::Normal(2.0));
        assert!(normal.mean(Kind::Double).double_value(&[]).abs() < 0.06);
        assert!((normal.std(true).double_value(&[]) - 2.0).abs() < 0.06);
        let uniform = initial(3, "u", &[20_000], Init::FanIn(16));
        assert!(uniform.abs().max().double_value(&[]) <= 0.25);
        assert!(uniform.abs().max().double_value(&[]) > 0.249);
    }
}
