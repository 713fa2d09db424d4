//! Every shader, without a device: valid in every form in use, bound as the host binds it, within WebGPU's default limits,
//! complete (twin, test, bench), and free of products where it claims additions only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use naga::back::PipelineConstants;
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, Handle, MathFunction, Module, ScalarKind, ShaderStage,
    Statement, StorageAccess, TypeInner,
};
use spikeshade::kernels::step::Step;
use spikeshade::kernels::{Constants, KERNELS, Kernel};
use spikeshade::recording::Access;

/// Parses and validates with none of naga's optional capabilities, which is what every WebGPU device has; a variant may have
/// subgroups.
fn parse(stem: &str, source: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{stem}: {}", e.emit_to_string(source)));
    let has_subgroups = [".table", ".subgroup", ".words"].iter().any(|variant| stem.ends_with(variant));
    let capabilities = if has_subgroups { Capabilities::SUBGROUP } else { Capabilities::empty() };
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    (module, info.unwrap_or_else(|e| panic!("{stem}: {}", e.emit_to_string(source))))
}

/// Calls `each` with every entry point under every set of constants, the overrides resolved.
fn forms(kernel: &Kernel, source: &str, mut each: impl FnMut(&str, &str, &Constants, &Module, &ModuleInfo)) {
    let (module, info) = parse(kernel.stem, source);
    for entry in kernel.entries {
        for constants in (kernel.constants)() {
            let what = format!("{} {entry} {constants:?}", kernel.stem);
            let values: PipelineConstants = constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
            let stage = Some((ShaderStage::Compute, *entry));
            let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, stage, &values)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            each(&what, entry, &constants, &module, &info);
        }
    }
}

#[test]
fn every_form_translates_to_every_backend() {
    for kernel in KERNELS {
        forms(kernel, &kernel.source(), |what, entry, _, module, info| {
            let entry_point = Some((ShaderStage::Compute, entry.to_owned()));

            let of_spv =
                naga::back::spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned() };
            let spv = naga::back::spv::write_vec(module, info, &Default::default(), Some(&of_spv));
            assert!(!spv.unwrap_or_else(|e| panic!("{what}, SPIR-V: {e}")).is_empty());

            let of_msl = naga::back::msl::PipelineOptions { entry_point: entry_point.clone(), ..Default::default() };
            let options = naga::back::msl::Options {
                lang_version: if kernel.stem.contains('.') { (2, 1) } else { (2, 0) },
                ..Default::default()
            };
            let (_, translated) = naga::back::msl::write_string(module, info, &options, &of_msl)
                .unwrap_or_else(|e| panic!("{what}, MSL: {e}"));
            assert!(translated.entry_point_names.iter().all(Result::is_ok), "{what}, MSL");

            let of_hlsl = naga::back::hlsl::PipelineOptions { entry_point };
            let options = naga::back::hlsl::Options::default();
            let mut text = String::new();
            let reflection = naga::back::hlsl::Writer::new(&mut text, &options, &of_hlsl)
                .write(module, info, None)
                .unwrap_or_else(|e| panic!("{what}, HLSL: {e}"));
            assert!(reflection.entry_point_names.iter().all(Result::is_ok), "{what}, HLSL");
        });
    }
}

#[test]
fn bindings_and_uniforms_are_the_hosts() {
    for kernel in KERNELS {
        let stem = kernel.stem;
        let (module, _) = parse(stem, &kernel.source());

        let entries: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(entries, kernel.entries, "{stem}");
        assert!(module.entry_points.iter().all(|e| e.stage == ShaderStage::Compute), "{stem}");

        let mut storage = Vec::new();
        let mut uniforms = Vec::new();
        for (_, variable) in module.global_variables.iter() {
            let Some(binding) = variable.binding else { continue };
            assert_eq!(binding.group, 0, "{stem}");
            let name = variable.name.as_deref().unwrap();
            match variable.space {
                AddressSpace::Storage { access } if access == StorageAccess::LOAD => {
                    storage.push((binding.binding, name, Access::Read));
                }
                AddressSpace::Storage { access } => {
                    assert_eq!(access, StorageAccess::LOAD | StorageAccess::STORE, "{stem}: {name}");
                    storage.push((binding.binding, name, Access::Write));
                }
                AddressSpace::Uniform => uniforms.push((binding.binding, variable.ty)),
                other => panic!("{stem}: {name} is bound in {other:?}"),
            }
        }
        storage.sort_by_key(|s| s.0);
        let expected: Vec<_> =
            kernel.bindings.iter().enumerate().map(|(i, &(name, access))| (i as u32, name, access)).collect();
        assert_eq!(storage, expected, "{stem}");

        assert_eq!(uniforms.len(), 1, "{stem}");
        let (number, ty) = uniforms[0];
        assert_eq!(number as usize, kernel.bindings.len(), "{stem}: the uniform comes last");
        let ty = &module.types[ty];
        let TypeInner::Struct { members, span } = &ty.inner else { panic!("{stem}: the uniform is no struct") };
        let (name, fields) = kernel.uniform;
        assert_eq!(ty.name.as_deref(), Some(name), "{stem}");
        assert_eq!(*span as usize, kernel.uniform_size, "{stem}");
        let reflected: Vec<(&str, usize)> =
            members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
        assert_eq!(reflected, fields, "{stem}");
        for member in members {
            let TypeInner::Scalar(scalar) = module.types[member.ty].inner else { panic!("{stem}: {member:?}") };
            assert!(
                scalar.width == 4 && matches!(scalar.kind, ScalarKind::Uint | ScalarKind::Float),
                "{stem}: {member:?}"
            );
        }

        let overrides: BTreeSet<&str> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
        for (name, _) in (kernel.constants)().iter().flatten() {
            assert!(overrides.contains(name), "{stem} has no override {name}");
        }
        let set: BTreeSet<&str> = (kernel.constants)().iter().flatten().map(|c| c.0).collect();
        assert_eq!(set, overrides, "{stem}: an override that no host sets");
    }
}

#[test]
fn a_steps_scalars_are_the_hosts() {
    let mut found = 0;
    for kernel in KERNELS {
        let (module, _) = parse(kernel.stem, &kernel.source());
        for (_, ty) in module.types.iter().filter(|(_, ty)| ty.name.as_deref() == Some("Step")) {
            let TypeInner::Struct { members, span } = &ty.inner else { panic!("{}: Step is no struct", kernel.stem) };
            let fields: Vec<&str> = members.iter().filter_map(|m| m.name.as_deref()).collect();
            assert_eq!((&fields[..], *span), (&Step::FIELDS[..], 32), "{}", kernel.stem);
            found += 1;
        }
    }
    assert!(found >= 4, "Step in {found} kernels");
}

#[test]
fn every_form_keeps_within_webgpus_default_limits() {
    for kernel in KERNELS {
        forms(kernel, &kernel.source(), |what, entry, _, module, info| {
            let i = module.entry_points.iter().position(|e| e.name == entry).unwrap();
            let [x, y, z] = module.entry_points[i].workgroup_size;
            assert!(x <= 256 && y <= 256 && z <= 64 && x * y * z <= 256, "{what}: workgroup {x} × {y} × {z}");
            let used = info.get_entry_point(i);
            let (mut storage, mut uniforms, mut memory) = (0, 0, 0);
            for (handle, variable) in module.global_variables.iter() {
                if used[handle].is_empty() {
                    continue;
                }
                match variable.space {
                    AddressSpace::Storage { .. } => storage += 1,
                    AddressSpace::Uniform => uniforms += 1,
                    AddressSpace::WorkGroup => {
                        memory += module.types[variable.ty].inner.size(module.to_ctx()).next_multiple_of(16);
                    }
                    _ => {}
                }
            }
            assert!(storage <= 8, "{what}: {storage} storage buffers");
            assert_eq!(uniforms, 1, "{what}");
            assert!(memory <= 16 << 10, "{what}: {memory} bytes of workgroup memory");
        });
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What a shader file lacks of the rule: a kernel, a twin, a test, a bench id, an equation and shape comments.
fn lacking(stem: &str, text: &str, root: &Path) -> Vec<String> {
    let mut lacking = Vec::new();
    if !KERNELS.iter().any(|k| k.stem == stem) {
        lacking.push("a kernel in KERNELS".to_owned());
    }
    for folder in ["src/kernels", "src/reference", "tests/kernels"] {
        if !root.join(folder).join(format!("{stem}.rs")).is_file() {
            lacking.push(format!("{folder}/{stem}.rs"));
        }
    }
    let has_bench = ["forward", "backward", "optimizer"].iter().any(|file| {
        let rows = std::fs::read_to_string(root.join(format!("benches/kernels/{file}.rs"))).unwrap_or_default();
        rows.contains(&format!("\"{stem}\""))
    });
    if !has_bench {
        lacking.push("a bench id in benches/kernels/".to_owned());
    }
    let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
    if !text.starts_with(&format!("// {stem}: ")) {
        lacking.push(format!("an opening comment `// {stem}: `"));
    }
    // The neuron's equations stand in lib/, where every kernel that has a neuron finds them.
    if !header.iter().any(|line| line.contains('=') || line.contains("Equations: lib/")) {
        lacking.push("its equation in the opening comment".to_owned());
    }
    for line in text.lines().filter(|line| line.starts_with("@group(") && line.contains("var<storage")) {
        if !line.split_once(';').is_some_and(|(_, rest)| rest.trim_start().starts_with("// [")) {
            lacking.push(format!("a shape comment on `{line}`"));
        }
    }
    lacking
}

#[test]
fn every_shader_has_its_kernel_twin_test_and_bench() {
    let mut stems = BTreeSet::new();
    for file in std::fs::read_dir(root().join("shaders")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "wgsl") {
            continue;
        }
        // `<stem>.<variant>.wgsl` is another way to the same result and stands under the same stem.
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let stem = name.split('.').next().unwrap();
        let kernel = KERNELS.iter().find(|k| format!("{}.wgsl", k.stem) == name);
        let kernel = kernel.unwrap_or_else(|| panic!("{name} lacks a kernel in KERNELS"));
        assert_eq!(kernel.op(), stem);
        let text = std::fs::read_to_string(&path).unwrap();
        let lacking = lacking(stem, &text, &root());
        assert!(lacking.is_empty(), "{name} lacks {}", lacking.join(", "));
        stems.insert(kernel.stem.to_owned());
        assert_eq!(kernel.sources[0], text, "{name}: the kernel's own text comes first");
    }
    let kernels: BTreeSet<String> = KERNELS.iter().map(|k| k.stem.to_owned()).collect();
    assert_eq!(stems, kernels);
    assert_eq!(kernels.len(), KERNELS.len(), "two kernels of one stem");
}

#[test]
fn the_rule_for_shader_files_bites() {
    let text = KERNELS.iter().find(|k| k.stem == "residual_add").unwrap().sources[0];
    assert_eq!(lacking("residual_add", text, &root()), [""; 0]);
    assert!(!lacking("nothing", text, &root()).is_empty());
    assert_eq!(lacking("residual_add", &text.replace("; // [", "; //"), &root()).len(), 1);
    assert_eq!(lacking("residual_add", &text.replace("// residual_add: ", "// "), &root()).len(), 1);
    assert_eq!(lacking("residual_add", &text.replace('=', "-"), &root()).len(), 1);
    assert_eq!(lacking("residual_add", text, &root().join("src")).len(), 4);
}

// ---- additions only

/// The shaders whose sums are additions of selected values.
const ADDITION_ONLY: &[&str] = &[
    "attention_fused",
    "attention_kv",
    "attention_q_kv",
    "attention_qk_v",
    "conv3x3_spike",
    "conv3x3_spike_f16",
    "conv3x3_spike_int8",
    "linear_spike",
    "linear_spike_f16",
    "linear_spike_int8",
];

/// Entry points that only add, of shaders whose others are products of two real factors.
const ADDITION_ONLY_ENTRIES: &[(&str, &[&str])] = &[
    ("attention_kv_backward", &["keys"]),
    ("attention_q_kv_backward", &["kv"]),
    ("attention_qk_v_backward", &["keys"]),
    ("conv3x3_spike_backward", &["weights", "combine"]),
    ("linear_spike_backward", &["weights", "combine"]),
];

/// Where a product is allowed: a callee, the only callers it may have, and why. Everything else that an entry
/// point reaches, inside a loop or not, must do without.
const EXCEPTIONS: &[(&str, &[&str], &str)] = &[
    (
        "normalise",
        &["finish_real", "finish_residual", "fire_rows", "store_real", "store_residual", "fire_row"],
        "batch norm: one scale a finished sum",
    ),
    ("normalise_a", &["real_row", "residual_row", "fire_row"], "the same"),
    ("normalise_b", &["real_row", "residual_row", "fire_row"], "the same"),
    ("charge", &["fire_rows", "fire"], "the neuron: 1/tau a finished sum"),
    ("nibble", &["fire_rows", "fire"], "packing: four bits to their places in a word"),
];

/// Functions of floats that are selections, comparisons or conversions, not products in disguise.
fn is_selection(fun: MathFunction) -> bool {
    use MathFunction as M;
    matches!(
        fun,
        M::Abs
            | M::Min
            | M::Max
            | M::Clamp
            | M::Saturate
            | M::Sign
            | M::Step
            | M::Ceil
            | M::Floor
            | M::Round
            | M::Trunc
    )
}

fn is_float(module: &Module, info: &FunctionInfo, expression: Handle<Expression>) -> bool {
    let kind = info[expression].ty.inner_with(&module.types).scalar_kind();
    matches!(kind, Some(ScalarKind::Float | ScalarKind::AbstractFloat))
}

/// Whether an expression can be a weight or a sum of weights: a float, a signed integer or a vector. What is left, single unsigned
/// integers, are indices and words of spikes.
fn is_summed(module: &Module, info: &FunctionInfo, expression: Handle<Expression>) -> bool {
    let inner = info[expression].ty.inner_with(&module.types);
    is_float(module, info, expression)
        || matches!(inner, TypeInner::Vector { .. })
        || matches!(inner.scalar_kind(), Some(ScalarKind::Sint | ScalarKind::AbstractInt))
}

struct Walk<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
    found: Vec<String>,
}

impl Walk<'_> {
    fn function(&mut self, function: &Function, info: &FunctionInfo, name: &str, loops: usize) {
        self.block(&function.body, function, info, name, loops);
    }

    fn block(&mut self, block: &Block, function: &Function, info: &FunctionInfo, name: &str, loops: usize) {
        for statement in block {
            match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        if let Some(what) = self.product(function, info, handle) {
                            self.found.push(format!("{what} in {name}, inside {loops} loops"));
                        }
                    }
                }
                Statement::Block(inner) => self.block(inner, function, info, name, loops),
                Statement::If { accept, reject, .. } => {
                    self.block(accept, function, info, name, loops);
                    self.block(reject, function, info, name, loops);
                }
                Statement::Switch { cases, .. } => {
                    for case in cases {
                        self.block(&case.body, function, info, name, loops);
                    }
                }
                Statement::Loop { body, continuing, .. } => {
                    self.block(body, function, info, name, loops + 1);
                    self.block(continuing, function, info, name, loops + 1);
                }
                Statement::Call { function: callee, .. } => {
                    let called = &self.module.functions[*callee];
                    let callee_name = called.name.as_deref().unwrap_or("");
                    if EXCEPTIONS.iter().any(|(f, callers, _)| *f == callee_name && callers.contains(&name)) {
                        continue;
                    }
                    self.function(called, &self.info[*callee], callee_name, loops);
                }
                Statement::Return { .. }
                | Statement::Store { .. }
                | Statement::Break
                | Statement::Continue
                | Statement::Kill
                | Statement::ControlBarrier(_)
                | Statement::MemoryBarrier(_)
                | Statement::SubgroupGather { .. }
                | Statement::WorkGroupUniformLoad { .. } => {}
                // Atomics, subgroup reductions, matrix units: whatever comes must be judged here first.
                other => self.found.push(format!("{other:?} in {name}")),
            }
        }
    }

    /// The product, quotient or function of what is summed that an expression is, if it is one.
    fn product(&self, function: &Function, info: &FunctionInfo, handle: Handle<Expression>) -> Option<String> {
        let float = |h| is_float(self.module, info, h);
        let summed = |h| is_summed(self.module, info, h);
        match function.expressions[handle] {
            Expression::Binary {
                op: op @ (BinaryOperator::Multiply | BinaryOperator::Divide | BinaryOperator::Modulo),
                left,
                right,
            } if summed(handle) || summed(left) || summed(right) => Some(format!("{op:?}")),
            Expression::Math { fun, arg, .. } if !is_selection(fun) && (float(arg) || float(handle)) => {
                Some(format!("{fun:?}"))
            }
            // Of integers too.
            Expression::Math {
                fun: fun @ (MathFunction::Dot | MathFunction::Dot4I8Packed | MathFunction::Dot4U8Packed),
                ..
            } => Some(format!("{fun:?}")),
            Expression::CooperativeMultiplyAdd { .. } | Expression::Derivative { .. } => Some("Matrix".to_owned()),
            _ => None,
        }
    }
}

/// Every product of what is summed that an entry point of the module reaches outside the exceptions.
fn products(kernel: &Kernel, source: &str) -> Vec<String> {
    products_of(kernel, source, kernel.entries)
}

/// The same, of some of its entry points.
fn products_of(kernel: &Kernel, source: &str, entries: &[&str]) -> Vec<String> {
    let mut found = BTreeSet::new();
    forms(kernel, source, |_, entry, _, module, info| {
        if !entries.contains(&entry) {
            return;
        }
        let i = module.entry_points.iter().position(|e| e.name == entry).unwrap();
        let mut walk = Walk { module, info, found: Vec::new() };
        walk.function(&module.entry_points[i].function, info.get_entry_point(i), entry, 0);
        found.extend(walk.found);
    });
    found.into_iter().collect()
}

fn kernel(stem: &str) -> &'static Kernel {
    KERNELS.iter().find(|k| k.stem == stem).unwrap()
}

#[test]
fn attention_and_spike_products_only_add() {
    for kernel in KERNELS.iter().filter(|k| ADDITION_ONLY.contains(&k.op())) {
        let found = products(kernel, &kernel.source());
        assert!(found.is_empty(), "{} multiplies: {found:#?}", kernel.stem);
    }
}

#[test]
fn gradients_by_spikes_only_add() {
    for (stem, entries) in ADDITION_ONLY_ENTRIES {
        let kernel = kernel(stem);
        let found = products_of(kernel, &kernel.source(), entries);
        assert!(found.is_empty(), "{stem} multiplies: {found:#?}");
        // The others multiply, and the check sees it.
        for entry in kernel.entries.iter().filter(|e| !entries.contains(e)) {
            assert!(!products_of(kernel, &kernel.source(), &[entry]).is_empty(), "{stem} {entry} only adds");
        }
    }
    let replacements = [
        ("attention_kv_backward", "s0 += term(m, v0, j);"),
        ("attention_q_kv_backward", "m3 += selected(g, spikes, 3u);"),
        ("attention_qk_v_backward", "s0 += term(x, b0, c);"),
        ("conv3x3_spike_backward", "s7 += selected(g, spikes, 7u);"),
        ("linear_spike_backward", "sum += partials_in[split * product.weights_len + at];"),
    ];
    for ((stem, entries), (same, from)) in ADDITION_ONLY_ENTRIES.iter().zip(replacements) {
        assert_eq!(*stem, same);
        let source = kernel(stem).source();
        assert_eq!(source.matches(from).count(), 1, "{stem}: {from}");
        let multiplied = source.replace(from, &from.replace("+= ", "+= 0.5 * "));
        assert!(!products_of(kernel(stem), &multiplied, entries).is_empty(), "{stem}: not found");
    }
}

#[test]
fn the_check_for_additions_bites() {
    let spike_product = [
        ("s0 += masked(w, r0, k);", "s0 += masked(w, r0, k) * 1.5;"),
        ("s7 += masked(w, r7, k);", "s7 = fma(masked(w, r7, k), vec4f(1.5), s7);"),
        ("s3 += masked(w, r3, k);", "s3 += masked(w, r3, k); s3 *= vec4f(2.0);"),
        ("s4 += masked(w, r4, k);", "s4 += mix(vec4f(), masked(w, r4, k), vec4f(0.5));"),
        ("s5 += masked(w, r5, k);", "s5 += pow(masked(w, r5, k), vec4f(2.0));"),
        (
            "return bitcast<vec4f>(w & vec4u(0u - ((spikes >> k) & 1u)));",
            "return bitcast<vec4f>(w) * f32((spikes >> k) & 1u);",
        ),
        ("weight_tile[i] = chunk_weight(chunk, i);", "weight_tile[i] = chunk_weight(chunk, i) / 3.0;"),
        ("let bits = chunk_bits(chunk);", "let bits = chunk_bits(chunk); s1 += vec4f(dot(s1, s2));"),
        ("return array<vec4f, 8>(s0,", "return array<vec4f, 8>(s0 * 0.125,"),
    ];
    let halves = [
        ("return halves(weights[", "return 0.5 * halves(weights["),
        ("- vec4f(0x1p-14f);", "* vec4f(0.5);"),
        ("(magnitude << vec4u(13u))", "(magnitude * vec4u(8192u))"),
    ];
    let unpacked_halves = [("return halves(w);", "return 0.5 * halves(w);"), halves[1], halves[2]];
    let unpacked_bytes = [("return vec4f(unpack4xI8(w));", "return vec4f(2 * unpack4xI8(w));")];
    let int8_product = [
        ("h0 += masked(w, r0, k);", "h0 += masked(w, r0, k) * vec2u(3u);"),
        ("h7 += masked(w, r7, k);", "h7 += masked(w, r7, k) * ((r7 >> k) & 1u);"),
        ("return w & vec2u(0u - ((spikes >> k) & 1u));", "return w * vec2u((spikes >> k) & 1u);"),
        ("s3 += widened(h3);", "s3 += 2 * widened(h3);"),
        ("s4 += widened(h4);", "s4.x += i32(dot4I8Packed(h4.x, h4.y));"),
        ("s5 += widened(h5);", "s5.y += dot(widened(h5), s6);"),
        ("vec4f(s0), vec4f(s1),", "vec4f(s0) * 0.5, vec4f(s1),"),
        ("let bits = chunk_bits(chunk);", "let bits = chunk_bits(chunk); s1.x /= 3;"),
        ("return bitcast<vec2u>(w.xy + (w.zw << vec2u(16u)));", "return bitcast<vec2u>(w.xy + w.zw * 65536);"),
    ];
    let signed = (
        "return bitcast<vec4f>((bitcast<vec4u>(value)",
        "return value * vec4f(plus) - 0.5 * bitcast<vec4f>((bitcast<vec4u>(value)",
    );
    let attention_kv =
        [("m0 += signed_term(", "m0 += 2.0 * signed_term("), ("k_tile[e] = k;", "k_tile[e] = k * k;"), signed];
    let attention_fused = [
        ("m1 += signed_term(", "m1 += 2.0 * signed_term("),
        ("o3 += masked(of_i, q3, i);", "o3 += masked(of_i, q3, i) * 0.5;"),
        ("return bitcast<vec4f>(value & vec4u(", "return bitcast<vec4f>(value) * vec4f(vec4u("),
        ("o_out[at + c] = sum[c];", "o_out[at + c] = sum[c] / 8.0;"),
        signed,
    ];
    let attention_qk_v = [
        ("a0 += masked(k, q0, i);", "a0 += masked(k, q0, i) * 0.125;"),
        ("o2 += signed_term(", "o2 += 0.125 * signed_term("),
        ("score_tile[row * 8u + lane] = a0;", "score_tile[row * 8u + lane] = a0 / 8.0;"),
        (
            "return bitcast<vec4f>(k & vec4u(0u - ((spikes >> i) & 1u)));",
            "return bitcast<vec4f>(k) * f32((spikes >> i) & 1u);",
        ),
        signed,
    ];
    // The exceptions are calls from the epilogue, not a licence for their names.
    let epilogue = [
        ("s6 += masked(w, r6, k);", "s6 += normalise(masked(w, r6, k), 0u);"),
        ("s6 += masked(w, r6, k);", "s6 = charge(s6, masked(w, r6, k), neuron());"),
        ("let h = charge(", "let h = 2.0 * charge("),
        ("real_out[at] = normalise(all[r], vector)", "real_out[at] = 2.0 * normalise(all[r], vector)"),
    ];
    let spike_table = [
        ("sums_a[r] += subgroupShuffle(t.a[i], spikes);", "sums_a[r] += subgroupShuffle(t.a[i], spikes) * 1.5;"),
        ("return term(low, high, k, 0u) +", "return 0.5 * term(low, high, k, 0u) +"),
        ("return select(vec4f(), of_input(low, high, k),", "return f32(bit) * select(vec4f(), of_input(low, high, k),"),
        ("sums_b[r] += subgroupShuffle(t.b[5], spike);", "sums_b[r] += subgroupMul(subgroupShuffle(t.b[5], spike));"),
        ("let h = charge(", "let h = 2.0 * charge("),
    ];
    let spike_events = [
        ("if (r0 & k3) != 0u { a0 += wa3;", "if (r0 & k3) != 0u { a0 += wa3 * 1.5;"),
        (
            "if (r7 & k0) != 0u { a7 += wa0; if WIDE { b7 += wb0; } }",
            "if (r7 & k0) != 0u { a7 += wa0; if WIDE { b7 += wb0 / 3.0; } }",
        ),
        ("let wa2 = unpacked(stored2);", "let wa2 = unpacked(stored2) * f32(k2 & 1u);"),
        ("let h = charge(", "let h = 2.0 * charge("),
    ];
    let subgroup_kv = [("sums[8u + j] += signed_term(", "sums[8u + j] += 2.0 * signed_term("), signed];
    let cases: [(&str, Vec<(&str, &str)>); 23] = [
        ("linear_spike", [&spike_product[..], &epilogue].concat()),
        ("conv3x3_spike", [&spike_product[..], &epilogue].concat()),
        ("linear_spike.table", spike_table.to_vec()),
        ("conv3x3_spike.table", spike_table.to_vec()),
        ("linear_spike.events", spike_events.to_vec()),
        ("conv3x3_spike.events", spike_events.to_vec()),
        ("linear_spike_f16.table", [&spike_table[..], &unpacked_halves].concat()),
        ("conv3x3_spike_f16.table", [&spike_table[..], &unpacked_halves].concat()),
        ("linear_spike_int8.table", [&spike_table[..], &unpacked_bytes].concat()),
        ("conv3x3_spike_int8.table", [&spike_table[..], &unpacked_bytes].concat()),
        ("linear_spike_f16.events", [&spike_events[..], &unpacked_halves].concat()),
        ("conv3x3_spike_f16.events", [&spike_events[..], &unpacked_halves].concat()),
        ("linear_spike_int8.events", [&spike_events[..], &unpacked_bytes].concat()),
        ("conv3x3_spike_int8.events", [&spike_events[..], &unpacked_bytes].concat()),
        ("attention_kv.subgroup", subgroup_kv.to_vec()),
        ("linear_spike_f16", [&spike_product[..], &epilogue, &halves].concat()),
        ("conv3x3_spike_f16", [&spike_product[..], &epilogue, &halves].concat()),
        ("linear_spike_int8", [&int8_product[..], &epilogue[2..]].concat()),
        ("conv3x3_spike_int8", [&int8_product[..], &epilogue[2..]].concat()),
        ("attention_q_kv", spike_product.to_vec()),
        ("attention_kv", attention_kv.to_vec()),
        ("attention_fused", attention_fused.to_vec()),
        ("attention_qk_v", attention_qk_v.to_vec()),
    ];
    for (stem, replacements) in cases {
        for (from, to) in replacements {
            let source = kernel(stem).source();
            assert_eq!(source.matches(from).count(), 1, "{stem}: {from}");
            let found = products(kernel(stem), &source.replace(from, to));
            assert!(!found.is_empty(), "{stem}: not found: {to}");
        }
    }
    // Products of integers are indices, and a float may be negated, compared or converted.
    let source = kernel("linear_spike").source();
    let harmless = source.replace("s0 += masked(w, r0, k);", "s0 -= max(-masked(w, r0, k), vec4f(f32(k * 0u)));");
    assert_ne!(source, harmless);
    assert_eq!(products(kernel("linear_spike"), &harmless), [""; 0]);
}
