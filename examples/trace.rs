//! Writes every spike and membrane potential of a model to a `.safetensors` file, for an image of even grey.
//!
//! `cargo run --release --example trace -- models/mnist-2-64.safetensors trace.safetensors`

use std::collections::BTreeMap;
use std::sync::Arc;

use spikeshade::layers::Options;
use spikeshade::model::Model;
use spikeshade::outputs::Values;
use spikeshade::session::{Device, Input, Session};
use spikeshade::tensor_file::{self, Data};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = &arguments[..] else { return Err("give a model and a file to write: trace MODEL OUT".into()) };
    let model = Arc::new(Model::load(model)?);
    let config = model.config();
    let input =
        Input { batch: 1, timesteps: None, data: vec![0.5; config.in_chans * config.img_size * config.img_size] };
    let options = Options { trace: true, ..Options::default() };
    let output = Session::new(model.clone(), Device::Cpu).run_blocking(&input, None, options)?;
    let mut tensors = vec![("logits".to_owned(), vec![1, config.num_classes], Data::F32(output.logits.concat()))];
    for tensor in output.trace {
        let s = tensor.shape;
        let data = match tensor.channel_first() {
            Values::Real(v) => Data::F32(v),
            Values::Spikes(v) => Data::U8(v),
            Values::Ternary(v) => Data::I8(v),
        };
        tensors.push((tensor.name, vec![s.steps, s.batch, s.channels, s.height, s.width], data));
    }
    println!("{} tensors in {out}", tensors.len());
    Ok(tensor_file::write(out.as_ref(), tensors, &BTreeMap::from([("config".to_owned(), config.to_json())]))?)
}
