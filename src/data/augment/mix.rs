//! Mixing the pictures of a batch in pairs, and their targets.

use super::super::random::Random;
use super::Mixing;

/// Rows of class probabilities, `[B][classes]`: `1 - smoothing` at the label, and `smoothing` spread over all classes.
pub(in crate::data) fn targets(labels: &[i64], classes: usize, smoothing: f64) -> Vec<f32> {
    let off = smoothing / classes as f64;
    let mut out = vec![off as f32; labels.len() * classes];
    for (row, &label) in out.chunks_exact_mut(classes).zip(labels) {
        row[label as usize] = (1.0 - smoothing + off) as f32;
    }
    out
}

/// How the pictures of one batch are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mix {
    /// Each value is `own` of the picture's and the rest of its partner's.
    Blend { own: f64 },
    /// The part from (`x0`, `y0`) up to (`x1`, `y1`) is the partner's.
    Paste { x0: usize, x1: usize, y0: usize, y1: usize },
}

impl Mixing {
    /// Mixes pictures, `[B][side][side][channels]`, and targets, `[B][classes]`, in place, the first picture with the
    /// last and so on.
    pub(in crate::data) fn apply(
        &self,
        pixels: &mut [f32],
        side: usize,
        targets: &mut [f32],
        batch: usize,
        random: &mut Random,
    ) {
        let Some(mix) = self.draw(side, random) else { return };
        let (image, classes) = (pixels.len() / batch, targets.len() / batch);
        let own = match mix {
            Mix::Blend { own } => {
                in_pairs(pixels, image, |a, b| blend(a, b, own as f32));
                own
            }
            Mix::Paste { x0, x1, y0, y1 } => {
                let channels = image / (side * side);
                in_pairs(pixels, image, |a, b| {
                    for y in y0..y1 {
                        let part = (y * side + x0) * channels..(y * side + x1) * channels;
                        a[part.clone()].swap_with_slice(&mut b[part]);
                    }
                });
                1.0 - ((x1 - x0) * (y1 - y0)) as f64 / (side * side) as f64
            }
        };
        in_pairs(targets, classes, |a, b| blend(a, b, own as f32));
    }

    /// What is done to a batch, if anything.
    fn draw(&self, side: usize, random: &mut Random) -> Option<Mix> {
        if self.is_off() || !random.chance(self.probability) {
            return None;
        }
        let paste = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => random.chance(self.switch_probability),
            (_, cutmix) => cutmix,
        };
        if !paste {
            return Some(Mix::Blend { own: random.beta(self.mixup) });
        }
        let cut = (side as f64 * (1.0 - random.beta(self.cutmix)).sqrt()) as usize;
        // Around any pixel, as far as it is inside.
        let mut span = || {
            let middle = random.below(side);
            (middle.saturating_sub(cut / 2), (middle + cut / 2).min(side))
        };
        let ((y0, y1), (x0, x1)) = (span(), span());
        Some(Mix::Paste { x0, x1, y0, y1 })
    }
}

/// Calls `mix` with each row of `size` values of the first half and its partner from the end.
fn in_pairs(rows: &mut [f32], size: usize, mix: impl Fn(&mut [f32], &mut [f32])) {
    let mut rows = rows.chunks_exact_mut(size);
    while let (Some(a), Some(b)) = (rows.next(), rows.next_back()) {
        mix(a, b);
    }
}

fn blend(a: &mut [f32], b: &mut [f32], own: f32) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a * own + *b * (1.0 - own), *b * own + *a * (1.0 - own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_targets() {
        assert_eq!(targets(&[1, 0], 2, 0.0), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(targets(&[2], 4, 0.2), [0.05, 0.05, 0.85, 0.05]);
    }

    #[test]
    fn pairs() {
        let mut rows = [1.0, 2.0, 3.0, 4.0, 5.0];
        in_pairs(&mut rows, 1, |a, b| blend(a, b, 0.75));
        assert_eq!(rows, [2.0, 2.5, 3.0, 3.5, 4.0]);
    }
}
