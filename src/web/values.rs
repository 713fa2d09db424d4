//! Results as JavaScript objects, and errors as they are thrown.

use js_sys::{Array, Float32Array, Object, Reflect};
use wasm_bindgen::prelude::*;

use crate::Error;
use crate::gpu::Context;
use crate::outputs::{probabilities, ranked};

/// An object with these properties.
pub fn object<const N: usize>(properties: [(&str, JsValue); N]) -> JsValue {
    let object = Object::new();
    for (name, value) in properties {
        // A new object takes every property.
        let _ = Reflect::set(&object, &name.into(), &value);
    }
    object.into()
}

/// A copy of `values`.
pub fn floats(values: &[f32]) -> JsValue {
    Float32Array::from(values).into()
}

/// An array of numbers.
pub fn numbers(values: impl IntoIterator<Item = f64>) -> JsValue {
    values.into_iter().map(JsValue::from).collect::<Array>().into()
}

/// The classes of one image, the most likely first: `{ index, name, logit, probability }`.
pub fn classes(logits: &[f32], names: Option<&[String]>) -> JsValue {
    let probabilities = probabilities(logits);
    let of = |class: usize| {
        let name = names.and_then(|names| names.get(class)).cloned().unwrap_or_else(|| class.to_string());
        object([
            ("index", (class as f64).into()),
            ("name", name.into()),
            ("logit", f64::from(logits[class]).into()),
            ("probability", probabilities[class].into()),
        ])
    };
    ranked(logits).into_iter().map(of).collect::<Array>().into()
}

/// What an error is to a page: the `code` of a `SpikeshadeError`. `input` is the code of what is wrong with a file or a value.
fn code(e: &Error, input: &'static str) -> &'static str {
    match e {
        Error::DeviceLost(_) => "device-lost",
        Error::OutOfMemory(_) => "out-of-memory",
        Error::Gpu(_) => "gpu",
        Error::Training(_) => "training",
        Error::Input(_) => "bad-input",
        Error::Io { .. } | Error::Format { .. } | Error::Config { .. } | Error::Checkpoint(_) => input,
    }
}

/// An `Error` with a `code`, to be thrown.
pub fn thrown(code: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    let _ = Reflect::set(error.unchecked_ref(), &"code".into(), &code.into());
    error.into()
}

/// The same of an error of the library. Its remedies are worded for the command line; a page has options.
pub fn failed(e: &Error) -> JsValue {
    let message = match e {
        Error::DeviceLost(why) => {
            format!("the GPU device was lost ({why}); load the model again, or with `device: 'cpu'`")
        }
        e => e
            .to_string()
            .replace("choose another with `--device`, or `--device cpu`", "load with `device: 'cpu'`")
            .replace("`--device cpu`", "`device: 'cpu'`")
            .replace("leave `--timesteps` out", "leave `timesteps` out"),
    };
    thrown(code(e, "bad-model"), &message)
}

/// Turns an error into one that says the device was lost, if it was: the browser tells of the loss after what failed by it.
pub async fn settled(e: Error, context: Option<&Context>) -> Error {
    let Some(context) = context else { return e };
    if !matches!(e, Error::Gpu(_)) {
        return e;
    }
    for _ in 0..10 {
        if let Some(why) = context.lost() {
            return Error::DeviceLost(why);
        }
        let later = js_sys::Promise::new(&mut |resolve, _| set_timeout(&resolve, 10.0));
        let _ = wasm_bindgen_futures::JsFuture::from(later).await;
    }
    e
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(then: &js_sys::Function, milliseconds: f64);
}
