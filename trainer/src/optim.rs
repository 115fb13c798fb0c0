//! Adam whose moments are ours, so that a checkpoint can hold them.

use tch::{Tensor, no_grad};

/// Settings of [`Adam`]; there is no weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Decay of the mean of gradients and of their squares.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

/// What [`Adam`] remembers between steps.
#[derive(Debug)]
pub struct AdamState {
    /// Steps taken.
    pub step: i64,
    /// Decaying mean of the gradients by parameter name, each shaped like its parameter.
    pub exp_avg: Vec<(String, Tensor)>,
    /// Decaying mean of the squared gradients by parameter name.
    pub exp_avg_sq: Vec<(String, Tensor)>,
}

/// Why a state cannot be resumed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptimError {
    /// The state is for other parameters.
    #[error(
        "the optimizer state has {found} where {expected} is needed; resume with the model it was saved with"
    )]
    Parameter {
        /// Name and shape needed.
        expected: String,
        /// Name and shape found.
        found: String,
    },
}

/// Adam, step for step the one of `torch.optim.Adam`, updating its parameters in place.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    params: Vec<(String, Tensor)>,
    step: i64,
    exp_avg: Vec<Tensor>,
    exp_avg_sq: Vec<Tensor>,
}

impl Adam {
    /// Moments of zero for every parameter; parameters are shared, not copied.
    pub fn new(params: &[(String, Tensor)], config: AdamConfig) -> Self {
        let zeros = || params.iter().map(|(_, param)| param.detach().zeros_like()).collect();
        let shared = params.iter().map(|(name, param)| (name.clone(), param.shallow_clone()));
        Self { config, exp_avg: zeros(), exp_avg_sq: zeros(), params: shared.collect(), step: 0 }
    }

    /// One update with gradients in the order of the parameters.
    ///
    /// # Panics
    /// When the number or shapes of the gradients differ from those of the parameters.
    pub fn step(&mut self, grads: &[Tensor], lr: f64) {
        assert_eq!(grads.len(), self.params.len(), "one gradient for each parameter");
        self.step += 1;
        let (beta1, beta2) = self.config.betas;
        let bias_correction1 = 1.0 - beta1.powi(self.step as i32);
        let bias_correction2_sqrt = (1.0 - beta2.powi(self.step as i32)).sqrt();
        let moments = self.exp_avg.iter_mut().zip(&mut self.exp_avg_sq);
        no_grad(|| {
            for (((_, param), grad), (exp_avg, exp_avg_sq)) in
                self.params.iter_mut().zip(grads).zip(moments)
            {
                let _ = exp_avg.lerp_(grad, 1.0 - beta1);
                let _ = exp_avg_sq.g_mul_scalar_(beta2);
                let _ = exp_avg_sq.addcmul_(&(grad * (1.0 - beta2)), grad);
                let denominator = exp_avg_sq.sqrt() / bias_correction2_sqrt + self.config.eps;
                let _ = param.addcdiv_(&(&*exp_avg * (-lr / bias_correction1)), &denominator);
            }
        });
    }

    /// A copy of everything needed to go on.
    pub fn state(&self) -> AdamState {
        let named = |moments: &[Tensor]| {
            let names = self.params.iter().map(|(name, _)| name.clone());
            names.zip(moments.iter().map(Tensor::copy)).collect()
        };
        AdamState {
            step: self.step,
            exp_avg: named(&self.exp_avg),
            exp_avg_sq: named(&self.exp_avg_sq),
        }
    }

    /// Goes on from `state`, whose names and shapes must be those of the parameters, in any order.
    pub fn load_state(&mut self, state: &AdamState) -> Result<(), OptimError> {
        let exp_avg = self.matching(&state.exp_avg)?;
        self.exp_avg_sq = self.matching(&state.exp_avg_sq)?;
        self.exp_avg = exp_avg;
        self.step = state.step;
        Ok(())
    }

    /// Copies of the moments in the order of the parameters.
    fn matching(&self, moments: &[(String, Tensor)]) -> Result<Vec<Tensor>, OptimError> {
        let described = |name: &str, tensor: &Tensor| format!("{name} {:?}", tensor.size());
        if let Some((name, tensor)) =
            moments.iter().find(|(name, _)| !self.params.iter().any(|(param, _)| param == name))
        {
            let found = described(name, tensor);
            return Err(OptimError::Parameter { expected: "nothing".into(), found });
        }
        self.params
            .iter()
            .map(|(name, param)| {
                let moment = moments.iter().find(|(other, _)| other == name);
                match moment {
                    Some((_, moment)) if moment.size() == param.size() => {
                        Ok(moment.to_device(param.device()).copy())
                    }
                    other => Err(OptimError::Parameter {
                        expected: described(name, param),
                        found: other.map_or_else(
                            || "nothing".into(),
                            |(name, tensor)| described(name, tensor),
                        ),
                    }),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter() -> Vec<(String, Tensor)> {
        vec![("w".to_string(), Tensor::from_slice(&[1.0f32, -2.0]).set_requires_grad(true))]
    }

    #[test]
    fn two_steps_match_a_hand_computation() {
        let params = parameter();
        let mut adam = Adam::new(&params, AdamConfig::default());
        let mut expected = [1.0_f64, -2.0];
        let (mut m, mut v) = ([0.0_f64; 2], [0.0_f64; 2]);
        for (step, grads) in [[0.5_f64, -1.0], [0.25, 3.0]].iter().enumerate() {
            adam.step(&[Tensor::from_slice(&grads.map(|g| g as f32))], 0.01);
            let t = step as i32 + 1;
            for i in 0..2 {
                m[i] = 0.9 * m[i] + 0.1 * grads[i];
                v[i] = 0.999 * v[i] + 0.001 * grads[i] * grads[i];
                let (mean, square) =
                    (m[i] / (1.0 - 0.9_f64.powi(t)), v[i] / (1.0 - 0.999_f64.powi(t)));
                expected[i] -= 0.01 * mean / (square.sqrt() + 1e-8);
            }
        }
        for (i, value) in expected.iter().enumerate() {
            assert!((params[0].1.double_value(&[i as i64]) - value).abs() < 1e-6);
        }
    }

    #[test]
    fn a_resumed_optimizer_takes_the_same_step() {
        let (a, b) = (parameter(), parameter());
        let grad = [Tensor::from_slice(&[0.3f32, 0.7])];
        let mut first = Adam::new(&a, AdamConfig::default());
        first.step(&grad, 0.1);
        let mut second = Adam::new(&b, AdamConfig::default());
        no_grad(|| b[0].1.shallow_clone().copy_(&a[0].1));
        second.load_state(&first.state()).unwrap();
        first.step(&grad, 0.1);
        second.step(&grad, 0.1);
        assert_eq!(a[0].1, b[0].1);
    }

    #[test]
    fn a_state_of_another_model_is_refused() {
        let mut adam = Adam::new(&parameter(), AdamConfig::default());
        let other = vec![("v".to_string(), Tensor::from_slice(&[1.0f32, -2.0]))];
        let state = Adam::new(&other, AdamConfig::default()).state();
        let error = adam.load_state(&state).unwrap_err().to_string();
        assert!(error.contains("v [2]"), "{error}");
    }
}
