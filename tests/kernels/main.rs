//! Every kernel on every adapter against its twin in f32, and that against the twin in f64, on random shapes.
//!
//! On a dyadic grid every f32 operation is exact, whatever its order: the three must agree bit for bit (-0 = 0). On ordinary
//! floats sums agree within a tolerance, and spikes except where the membrane lies next to the threshold.

#[path = "../common/mod.rs"]
mod common;

mod accumulate;
mod adamw;
mod attention;
mod attention_census;
mod attention_fused;
mod attention_kv;
mod attention_kv_backward;
mod attention_q_kv;
mod attention_q_kv_backward;
mod attention_qk_v;
mod attention_qk_v_backward;
mod bn_apply;
mod bn_backward;
mod bn_statistics;
mod conv3x3_real;
mod conv3x3_real_backward;
mod conv3x3_spike;
mod conv3x3_spike_backward;
mod conv3x3_spike_f16;
mod conv3x3_spike_int8;
mod copy;
mod cross_entropy;
mod ema;
mod folding;
mod gradient_norm;
mod harness;
mod head;
mod head_backward;
mod lif;
mod lif_backward;
mod linear_spike;
mod linear_spike_backward;
mod linear_spike_f16;
mod linear_spike_int8;
mod maxpool_real;
mod maxpool_real_backward;
mod maxpool_spike;
mod maxpool_spike_backward;
mod multiply_add;
mod product;
mod product_backward;
mod product_f16;
mod product_int8;
mod residual_add;
mod sgd;
mod spike_census;
mod spike_count;
mod spike_gap;
mod spike_gap_backward;
