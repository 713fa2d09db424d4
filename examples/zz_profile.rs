use spikeshade::gpu::*;
use spikeshade::model::{InputShape, Model};
use std::sync::Arc;
use std::time::Instant;
fn main() {
    let name = std::env::args().nth(1).unwrap();
    let t = Instant::now();
    let inst = |b: wgpu::Backends| {
        let mut d = wgpu::InstanceDescriptor::new_without_display_handle();
        d.backends = b;
        wgpu::Instance::new(d)
    };
    let i = inst(wgpu::Backends::VULKAN);
    eprintln!("instance {:?}", t.elapsed());
    let t = Instant::now();
    let a = pollster::block_on(i.enumerate_adapters(wgpu::Backends::VULKAN));
    eprintln!("enumerate {:?} {}", t.elapsed(), a.len());
    let t = Instant::now();
    drop(a);
    drop(i);
    eprintln!("drop {:?}", t.elapsed());
    let t = Instant::now();
    let adapters = pollster::block_on(Adapters::enumerate());
    eprintln!("Adapters again {:?}", t.elapsed());
    let t = Instant::now();
    let c = pollster::block_on(Context::open(&adapters, adapters.choose(&name).unwrap())).unwrap();
    eprintln!("open {:?}", t.elapsed());
    let t = Instant::now();
    let m = Model::built_in().unwrap();
    eprintln!("model {:?}", t.elapsed());
    let t = Instant::now();
    let r = m.record(InputShape { timesteps: 4, batch: 1, sequence: false }, Default::default(), c.limits()).unwrap();
    eprintln!("record {:?}", t.elapsed());
    let t = Instant::now();
    let mut p = pollster::block_on(Plan::new(&c, r)).unwrap();
    eprintln!("plan {:?}", t.elapsed());
    for _ in 0..3 {
        let t = Instant::now();
        pollster::block_on(p.run(&[&vec![0.5; 28 * 28 * 4]])).unwrap();
        eprintln!("run {:?}", t.elapsed());
    }
    let _ = Arc::new(0);
}
