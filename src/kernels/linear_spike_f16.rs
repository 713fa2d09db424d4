//! `linear_spike_f16`: packed spikes times f16 weights, token by token, then batch norm and an epilogue.

use super::product::{self, SpikeProduct};
use super::{Arithmetic, Dispatch, Kernel, Op, twins};
use crate::gpu::Capabilities;
use crate::recording::Recording;
use crate::reference::linear_spike_f16 as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "linear_spike_f16",
    sources: &[
        include_str!("../../shaders/linear_spike_f16.wgsl"),
        include_str!("../../shaders/lib/linear_rows.wgsl"),
        include_str!("../../shaders/lib/spike_product.wgsl"),
        include_str!("../../shaders/lib/halves.wgsl"),
        include_str!("../../shaders/lib/product_epilogue.wgsl"),
        include_str!("../../shaders/lib/product_parameters.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
    ],
    entries: product::ENTRIES,
    bindings: product::BINDINGS,
    uniform: product::Product::LAYOUT,
    uniform_size: size_of::<product::Product>(),
    constants: product::constants,
};

/// The variant for software drivers.
pub static TABLE: Kernel = Kernel {
    stem: "linear_spike_f16.table",
    sources: &[
        include_str!("../../shaders/linear_spike_f16.table.wgsl"),
        include_str!("../../shaders/lib/linear_rows.wgsl"),
        include_str!("../../shaders/lib/spike_table.wgsl"),
        include_str!("../../shaders/lib/halves.wgsl"),
        include_str!("../../shaders/lib/table_epilogue.wgsl"),
        include_str!("../../shaders/lib/product_parameters.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
    ],
    constants: product::table_constants,
    ..KERNEL
};

/// The variant for GPUs; the same bits.
pub static EVENTS: Kernel = Kernel {
    stem: "linear_spike_f16.events",
    sources: &[
        include_str!("../../shaders/linear_spike_f16.events.wgsl"),
        include_str!("../../shaders/lib/linear_rows.wgsl"),
        include_str!("../../shaders/lib/spike_events.wgsl"),
        include_str!("../../shaders/lib/halves.wgsl"),
        include_str!("../../shaders/lib/event_epilogue.wgsl"),
        include_str!("../../shaders/lib/product_parameters.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
    ],
    constants: product::event_constants,
    ..KERNEL
};

/// Input `[T, B, H, W, I]` packed, f16 weights `[O, I, 1, 1]`.
#[derive(Clone, Debug)]
pub struct LinearSpikeF16(pub SpikeProduct);

impl Op for LinearSpikeF16 {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.0.layer
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        self.0.arithmetic(recording, 1)
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        self.0.dispatch(&KERNEL, recording)
    }

    fn dispatch_on(&self, recording: &Recording, capabilities: Capabilities) -> Dispatch {
        self.0.dispatch_unpacking_on([&KERNEL, &TABLE, &EVENTS], 1, recording, capabilities)
    }

    twins!(twin::run, 0);
}
