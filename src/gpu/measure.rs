//! Which variant is the faster one, measured once a device where no rule says so.

use std::sync::Arc;

use super::{Capabilities, Context, Plan};
use crate::Result;
use crate::kernels::linear_spike::LinearSpike;
use crate::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use crate::recording::{Constant, Recording};
use crate::tensor::{Element, Shape};

/// Workgroups of a product in larger tiles from which on they fill a GPU of ordinary size; with fewer, the smaller tiles of the
/// portable kernel reach more of it.
const FILL: u64 = 64;

/// What decides between variants of the kernels of `recording`, measured first where that is not known yet. Variants that are
/// chosen by measurement give the same bits as the portable ones, so that results do not depend on it.
pub(super) async fn settle(context: &Arc<Context>, recording: &Recording) -> Capabilities {
    let known = context.capabilities();
    let Some(tiles_pay) = context.tiles_pay() else { return known };
    let large = Capabilities { tiles_from: Some(FILL), ..known };
    let differs = recording.ops().any(|op| op.dispatch_on(recording, large).kernel.stem != op.kernel().stem);
    if !differs {
        return known;
    }
    let pays = match tiles_pay.get() {
        Some(&pays) => pays,
        None => {
            // A device that fails here fails again, with an error of its own, when it runs what is asked of it.
            let pays = tiles_are_faster(context).await.unwrap_or(false);
            *tiles_pay.get_or_init(|| pays)
        }
    };
    if pays { large } else { known }
}

/// Whether a product in larger tiles takes at least a twentieth less time than the portable one: 256 to 256 channels, 4,096 tokens,
/// T = 4, which is 512 workgroups of the larger tiles; the best of three runs of each in turn.
///
/// # Errors
/// As [`Plan::new`] and [`Plan::run`].
pub async fn tiles_are_faster(context: &Arc<Context>) -> Result<bool> {
    let portable = Capabilities::default();
    let large = Capabilities { tiles_from: Some(0), ..portable };
    let mut plans = Vec::new();
    for capabilities in [portable, large] {
        let mut plan = Plan::with(context, product(), capabilities).await?;
        // Drivers compile at the first dispatch.
        plan.run(&[]).await?;
        plans.push((plan, std::time::Duration::MAX));
    }
    for _ in 0..3 {
        for (plan, best) in &mut plans {
            let start = std::time::Instant::now();
            plan.run(&[]).await?;
            *best = start.elapsed().min(*best);
        }
    }
    Ok(plans[1].1.as_secs_f64() < 0.95 * plans[0].1.as_secs_f64())
}

/// The same product several times over, so that it takes longer than to submit it; half the neurons silent.
fn product() -> Recording {
    const CHANNELS: usize = 256;
    let shape = Shape { steps: 4, batch: 1, height: 64, width: 64, channels: CHANNELS };
    let mut r = Recording::default();
    let spikes = vec![0x5555_5555; shape.steps * shape.rows() * CHANNELS / 32];
    let input = r.constant_as(&Arc::new(Constant::packed("spikes", spikes)), Element::Spikes, shape);
    let mut parameter =
        |name: &str, data: Vec<f32>| r.constant(&Arc::new(Constant { name: name.to_owned(), data: data.into() }));
    let weights = parameter("weights", pack_weights(&[0.5; CHANNELS * CHANNELS], 0..CHANNELS, CHANNELS, 1));
    let scale_shift = parameter("batch norm", pack_scale_shift(&[1.0; CHANNELS], &[0.0; CHANNELS], 0..CHANNELS));
    let out = r.tensor("y", Element::Real, shape);
    for _ in 0..4 {
        let epilogue = Epilogue::Real { out, first_channel: 0, relu: false };
        let layer = "measuring".to_owned();
        r.push(LinearSpike(SpikeProduct { layer, input, weights, scale_shift, channels_out: CHANNELS, epilogue }));
    }
    r
}
