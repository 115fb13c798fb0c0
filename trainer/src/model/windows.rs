//! Cutting a grid of tokens into square windows and putting it together again, each in one copy.

use tch::Tensor;

/// How square windows cover a grid of tokens; those at the right and the bottom may stick out.
pub(crate) struct Windows {
    height: i64,
    width: i64,
    window: i64,
}

/// Windows in a row (or column) that hold equally many tokens of the grid.
struct Span {
    first: i64,
    windows: i64,
    tokens: i64,
}

impl Windows {
    pub(crate) fn new(height: i64, width: i64, window: i64) -> Self {
        Self { height, width, window }
    }

    /// (B, H, W, C) -> (B * windows, window * window, C). Tokens outside of the grid become
    /// `padding` (C), or zeros without one.
    pub(crate) fn cut(&self, x_bhwc: &Tensor, padding: Option<&Tensor>) -> Tensor {
        let size = x_bhwc.size();
        let (rows, columns) = (self.count(self.height), self.count(self.width));
        let shape = [size[0], rows, columns, self.window, self.window, size[3]];
        let windows = x_bhwc.new_empty(shape, (x_bhwc.kind(), x_bhwc.device()));
        for (dim, side) in [(1, self.height), (2, self.width)] {
            if side % self.window != 0 {
                let mut last = windows.narrow(dim, side / self.window, 1);
                match padding {
                    Some(padding) => last.copy_(padding),
                    None => drop(last.zero_()),
                }
            }
        }
        for (mut inside, tokens) in self.shared(&windows, x_bhwc) {
            inside.copy_(&tokens);
        }
        windows.view([-1, self.window * self.window, size[3]])
    }

    /// The inverse, padding left out: (B * windows, window * window, C) -> (B, H, W, C).
    pub(crate) fn join(&self, windows: &Tensor) -> Tensor {
        let channels = windows.size()[2];
        let (rows, columns) = (self.count(self.height), self.count(self.width));
        let windows = windows.view([-1, rows, columns, self.window, self.window, channels]);
        let shape = [windows.size()[0], self.height, self.width, channels];
        let grid = windows.new_empty(shape, (windows.kind(), windows.device()));
        for (inside, mut tokens) in self.shared(&windows, &grid) {
            tokens.copy_(&inside);
        }
        grid
    }

    /// Windows along a side of the grid.
    fn count(&self, side: i64) -> i64 {
        (side + self.window - 1) / self.window
    }

    /// Views of the same tokens, in `windows` (B, rows, columns, window, window, C) and in `grid`
    /// (B, H, W, C), both as (B, rows, columns, y, x, C): the whole windows at once, then those cut
    /// off by the right and the lower edge.
    fn shared(&self, windows: &Tensor, grid: &Tensor) -> Vec<(Tensor, Tensor)> {
        let size = grid.size();
        let mut pairs = Vec::new();
        for y in self.spans(self.height) {
            for x in self.spans(self.width) {
                let inside = windows
                    .narrow(1, y.first, y.windows)
                    .narrow(2, x.first, x.windows)
                    .narrow(3, 0, y.tokens)
                    .narrow(4, 0, x.tokens);
                let tokens = grid
                    .narrow(1, y.first * self.window, y.windows * y.tokens)
                    .narrow(2, x.first * self.window, x.windows * x.tokens)
                    .view([size[0], y.windows, y.tokens, x.windows, x.tokens, size[3]])
                    .transpose(2, 3);
                pairs.push((inside, tokens));
            }
        }
        pairs
    }

    fn spans(&self, side: i64) -> impl Iterator<Item = Span> {
        let (whole, rest) = (side / self.window, side % self.window);
        let whole_ones = Span { first: 0, windows: whole, tokens: self.window };
        let cut_off = Span { first: whole, windows: 1, tokens: rest };
        [whole_ones, cut_off].into_iter().filter(|span| span.windows > 0 && span.tokens > 0)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// As the published code cuts them: pad with zeros, view, transpose.
    fn published(x: &Tensor, window: i64) -> Tensor {
        let size = x.size();
        let pad = |side: i64| (window - side % window) % window;
        let x = x.constant_pad_nd([0, 0, 0, pad(size[2]), 0, pad(size[1])]);
        let padded = x.size();
        x.view([size[0], padded[1] / window, window, padded[2] / window, window, size[3]])
            .transpose(2, 3)
            .reshape([-1, window * window, size[3]])
    }

    #[test]
    fn windows_are_the_published_ones_and_come_back() {
        for (height, width, window) in [(9, 5, 4), (8, 4, 4), (3, 3, 5), (8, 9, 4)] {
            let x = Tensor::randn([2, height, width, 3], CPU);
            let windows = Windows::new(height, width, window);
            let cut = windows.cut(&x, None);
            assert_eq!(cut, published(&x, window), "{height} x {width} by {window}");
            assert_eq!(windows.join(&cut), x, "{height} x {width} by {window}");
        }
    }

    #[test]
    fn padding_fills_what_is_outside_of_the_grid() {
        let x = Tensor::zeros([1, 3, 2, 2], CPU);
        let padding = Tensor::from_slice(&[1.0f32, 2.0]);
        let cut = Windows::new(3, 2, 2).cut(&x, Some(&padding));
        assert_eq!(cut.sum(Kind::Float).double_value(&[]), 2.0 * (1.0 + 2.0));
        assert_eq!(cut.get(1).get(3), padding);
    }
}
