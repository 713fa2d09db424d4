//! Training steps of one batch, for `spikeshade bench`.

use anyhow::{Result, bail};

use super::Rates;
use crate::checkpoint::Checkpoint;
use crate::cli::RunArgs;
use crate::profile::OpTime;
use crate::session::{Device, Input};
use crate::train::adamw::AdamW;
use crate::train::gradients::{check_batch, one_hot};
use crate::train::plan::{Images, Schedule, Settings, StepResult, TrainingPlan};

/// One batch, one step after another; nothing large is allocated before the first.
pub(super) struct Training {
    /// What the plan is made from when the first step is asked for.
    start: Option<(Checkpoint, Device)>,
    plan: Option<TrainingPlan>,
    settings: Settings,
    classes: usize,
    /// `[B][H][W][C]`.
    pixels: Vec<f32>,
    /// `[B][classes]`.
    targets: Vec<f32>,
    steps: u64,
    /// Of the latest step, before its update; `None` before the first.
    pub logits: Option<Vec<Vec<f32>>>,
    /// Likewise.
    pub rates: Rates,
}

impl Training {
    pub fn new(
        mut checkpoint: Checkpoint,
        images: &Input,
        labels: &[i64],
        device: Device,
        run: &RunArgs,
    ) -> Result<Self> {
        if let Some(timesteps) = run.timesteps {
            checkpoint.config.timesteps = timesteps;
        }
        let config = &checkpoint.config;
        if images.timesteps.is_some() {
            bail!("`x` is a sequence; training takes images, [B, C, H, W]");
        }
        check_batch(config, images, labels)?;
        let (batch, classes, channels) = (images.batch, config.num_classes, config.in_chans);
        let mut pixels = Vec::with_capacity(images.data.len());
        for image in images.data.chunks_exact(channels * config.img_size.pow(2)) {
            let plane = image.len() / channels;
            pixels.extend((0..plane).flat_map(|i| image[i..].iter().step_by(plane)));
        }
        let targets = one_hot(labels, classes);
        let settings = Settings { batch, micro_batches: 1, order: run.options().order, ..Settings::default() };
        Ok(Training {
            start: Some((checkpoint, device)),
            plan: None,
            settings,
            classes,
            pixels,
            targets,
            steps: 0,
            logits: None,
            rates: Rates::default(),
        })
    }

    /// Images of a step.
    pub fn batch(&self) -> usize {
        self.settings.batch
    }

    /// Makes the plan, once.
    pub fn prepare(&mut self) -> Result<()> {
        if let Some((checkpoint, device)) = self.start.take() {
            self.plan = Some(pollster::block_on(TrainingPlan::new(&device, checkpoint, self.settings))?);
        }
        Ok(())
    }

    /// One step.
    pub fn step(&mut self) -> Result<()> {
        let result = self.take(|plan, images, schedule| pollster::block_on(plan.step(&[images], schedule)))?;
        self.note(result)
    }

    /// One step, with each op's time.
    pub fn step_timed(&mut self) -> Result<Vec<OpTime>> {
        let timed = self.take(|plan, images, schedule| pollster::block_on(plan.step_timed(images, schedule)))?;
        self.note(timed.0)?;
        Ok(timed.1)
    }

    fn take<R>(&mut self, step: impl FnOnce(&mut TrainingPlan, Images, Schedule) -> crate::Result<R>) -> Result<R> {
        self.prepare()?;
        let Some(plan) = &mut self.plan else { bail!("the training plan could not be made; see the first answer") };
        let AdamW { lr, weight_decay, .. } = AdamW::default();
        let schedule = Schedule { step: self.steps + 1, lr, weight_decay, ema_decay: 0.0 };
        let images = Images { pixels: &self.pixels, targets: &self.targets };
        let result = step(plan, images, schedule)?;
        self.steps += 1;
        Ok(result)
    }

    fn note(&mut self, result: StepResult) -> Result<()> {
        self.logits = Some(result.logits.chunks_exact(self.classes).map(<[f32]>::to_vec).collect());
        self.rates = result.counts.iter().map(|c| (c.layer.clone(), c.rate())).collect();
        if result.skipped {
            bail!("step {}: the gradient is not finite; use another model or input", self.steps);
        }
        Ok(())
    }
}
