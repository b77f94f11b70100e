#include <algorithm>

#include "lib/error.h"
#include "lib/model/attention.h"
#include "lib/model/layer_parts.h"
#include "lib/model/matmul.h"
#include "lib/model/ops.h"

namespace tq {
namespace {

using Floats = std::vector<float>;

/// [tokens][heads * dim] -> [heads][tokens][dim], of `dim` values from `offset` on of each head's
/// `width`.
void split_heads(const RunContext& context, std::span<const float> x, std::int64_t heads, std::int64_t tokens,
                 std::int64_t width, std::int64_t offset, std::int64_t dim, Floats& out) {
  out.resize(static_cast<std::size_t>(heads * tokens * dim));
  parallel_for(context.threads, heads, [&](std::int64_t h) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* from = x.data() + (t * heads + h) * width + offset;
      std::copy(from, from + dim, out.data() + (h * tokens + t) * dim);
    }
  });
}

/// Norms q or k, given token by token; `norms` as AttentionLayout has them.
void norm_heads(const LayerInput& in, const std::vector<Norm>& norms, std::int64_t heads, std::int64_t dim, Floats& x) {
  if (norms.empty()) return;
  const bool whole = in.config.family->qk_norm == QkNorm::kWhole;
  std::vector<LoadedNorm> loaded;
  for (const Norm& norm : norms) loaded.emplace_back(*in.context.reader, norm);
  if (whole) return loaded.front().apply(x.data(), x.data(), in.tokens, heads * dim, heads * dim);
  for (std::int64_t h = 0; h < heads; ++h) {
    const LoadedNorm& norm = loaded[loaded.size() == 1 ? 0 : static_cast<std::size_t>(h)];
    norm.apply(x.data() + h * dim, x.data() + h * dim, in.tokens, dim, heads * dim);
  }
}

/// Turns each head, [heads][tokens][dim], from channel `offset` on.
void turn_heads(const LayerInput& in, const RopeTable& rope, std::int64_t heads, std::int64_t dim, std::int64_t offset,
                Floats& x) {
  if (!in.layer.rope) return;
  parallel_for(in.context.threads, heads, [&](std::int64_t h) {
    apply_rope(rope, in.config.rope_pairs, in.past, in.tokens, dim, x.data() + h * in.tokens * dim + offset);
  });
}

/// What is known before k, v and q are.
void describe_layer(const LayerInput& in, LayerKv& kv) {
  const ModelConfig& c = in.config;
  kv.layer = in.index;
  kv.layers = static_cast<std::int64_t>(c.layers.size());
  kv.heads = c.heads;
  kv.kv_heads = c.kv_heads;
  kv.tokens = in.tokens;
  kv.k_dim = c.head_dim;
  kv.v_dim = c.v_head_dim;
  kv.scale = c.attention_scale;
  kv.softcap = c.attention_softcap;
  kv.window = in.layer.window;
  kv.sinks.clear();
  if (in.layout.attention.sinks != nullptr) kv.sinks = read_vector(*in.context.reader, *in.layout.attention.sinks);
  kv.recent = 0;
  kv.recent_k.clear();
  kv.recent_v.clear();
}

void project(const LayerInput& in, const RopeTable& rope, std::span<const float> x, LayerKv& kv) {
  const AttentionLayout& a = in.layout.attention;
  Floats &q = in.buffers.q, &k = in.buffers.k, &v = in.buffers.v;
  const auto task = [&](const Matrix& m, Floats& y) {
    y.resize(static_cast<std::size_t>(in.tokens * m.out));
    return LinearTask{&m, x.data(), m.in, in.tokens, y.data(), m.out};
  };
  const LinearTask tasks[] = {task(a.q, q), task(a.k, k), task(a.v, v)};
  run_linear(in.context, tasks);
  norm_heads(in, a.q_norm, kv.heads, kv.k_dim, q);
  norm_heads(in, a.k_norm, kv.kv_heads, kv.k_dim, k);
  split_heads(in.context, q, kv.heads, in.tokens, kv.k_dim, 0, kv.k_dim, kv.q);
  split_heads(in.context, k, kv.kv_heads, in.tokens, kv.k_dim, 0, kv.k_dim, kv.k);
  split_heads(in.context, v, kv.kv_heads, in.tokens, kv.v_dim, 0, kv.v_dim, kv.v);
  turn_heads(in, rope, kv.heads, kv.k_dim, 0, kv.q);
  turn_heads(in, rope, kv.kv_heads, kv.k_dim, 0, kv.k);
}

/// The latent and the rotary part of all tokens: [tokens][kv_rank + rope_dim], as a cache holds it.
Floats project_latent(const LayerInput& in, const RopeTable& rope, std::span<const float> x) {
  const MlaConfig& mla = *in.config.mla;
  const std::int64_t width = mla.kv_rank + mla.rope_dim;
  Floats latent = apply_linear(in.context, in.layout.attention.kv_a, x, in.tokens);
  const LoadedNorm norm(*in.context.reader, in.layout.attention.kv_a_norm);
  norm.apply(latent.data(), latent.data(), in.tokens, mla.kv_rank, width);
  apply_rope(rope, in.config.rope_pairs, in.past, in.tokens, width, latent.data() + mla.kv_rank);
  return latent;
}

Floats project_latent_queries(const LayerInput& in, const RopeTable& rope, std::span<const float> x) {
  const AttentionLayout& a = in.layout.attention;
  const ModelConfig& c = in.config;
  Floats q;
  if (a.q_a) {
    Floats low = apply_linear(in.context, a.q_a, x, in.tokens);
    const LoadedNorm norm(*in.context.reader, a.q_a_norm);
    norm.apply(low.data(), low.data(), in.tokens, a.q_a.out, a.q_a.out);
    q = apply_linear(in.context, a.q, low, in.tokens);
  } else {
    q = apply_linear(in.context, a.q, x, in.tokens);
  }
  Floats heads;
  split_heads(in.context, q, c.heads, in.tokens, c.head_dim, 0, c.head_dim, heads);
  turn_heads(in, rope, c.heads, c.head_dim, c.mla->nope_dim, heads);
  return heads;
}

/// Keys and values of every head from the latent.
void expand_latent(const LayerInput& in, std::span<const float> latent, LayerKv& kv) {
  const MlaConfig& mla = *in.config.mla;
  const std::int64_t width = mla.kv_rank + mla.rope_dim;
  const Matrix& kv_b = in.layout.attention.kv_b;
  Floats both(static_cast<std::size_t>(in.tokens * kv_b.out));
  const LinearTask task = {&kv_b, latent.data(), width, in.tokens, both.data(), kv_b.out};
  run_linear(in.context, {&task, 1});
  const std::int64_t head = mla.nope_dim + kv.v_dim;
  split_heads(in.context, both, kv.heads, in.tokens, head, mla.nope_dim, kv.v_dim, kv.v);
  kv.k.resize(static_cast<std::size_t>(kv.heads * in.tokens * kv.k_dim));
  for (std::int64_t h = 0; h < kv.heads; ++h) {
    for (std::int64_t t = 0; t < in.tokens; ++t) {
      float* k = kv.k.data() + (h * in.tokens + t) * kv.k_dim;
      const float* nope = both.data() + t * kv_b.out + h * head;
      const float* turned = latent.data() + t * width + mla.kv_rank;
      std::copy(nope, nope + mla.nope_dim, k);
      std::copy(turned, turned + mla.rope_dim, k + mla.nope_dim);
    }
  }
}

/// kv_b as float32, [heads][nope_dim + v_head_dim][kv_rank].
Floats read_expansion(const LayerInput& in) {
  const Matrix& m = in.layout.attention.kv_b;
  Floats out(static_cast<std::size_t>(m.out * m.in));
  in.context.reader->read_rows(*m.tensor, m.first_row, m.out, out.data());
  return out;
}

/// The cache as it is stored: one key head, and queries that the key half of kv_b has gone into.
void absorb_latent(const LayerInput& in, std::span<const float> q, std::span<const float> latent, const Floats& expansion,
                   LayerKv& kv) {
  const MlaConfig& mla = *in.config.mla;
  const std::int64_t head_dim = in.config.head_dim;
  const std::int64_t head = mla.nope_dim + in.config.v_head_dim;
  const std::int64_t width = mla.kv_rank + mla.rope_dim;
  kv.kv_heads = 1;
  kv.k_dim = width;
  kv.v_dim = mla.kv_rank;
  kv.k.assign(latent.begin(), latent.end());
  kv.v.resize(static_cast<std::size_t>(in.tokens * mla.kv_rank));
  for (std::int64_t t = 0; t < in.tokens; ++t) {
    std::copy(latent.data() + t * width, latent.data() + t * width + mla.kv_rank, kv.v.data() + t * mla.kv_rank);
  }
  kv.q.resize(static_cast<std::size_t>(kv.heads * in.tokens * width));
  parallel_for(in.context.threads, kv.heads, [&](std::int64_t h) {
    const float* from = q.data() + h * in.tokens * head_dim;
    float* to = kv.q.data() + h * in.tokens * width;
    matmul_kernel().by_columns({from, head_dim, in.tokens, expansion.data() + h * head * mla.kv_rank, mla.kv_rank,
                                mla.kv_rank, mla.nope_dim, to, width, false});
    for (std::int64_t t = 0; t < in.tokens; ++t) {
      const float* turned = from + t * head_dim + mla.nope_dim;
      std::copy(turned, turned + mla.rope_dim, to + t * width + mla.kv_rank);
    }
  });
}

/// Sums of latents -> sums of values: the value half of kv_b.
Floats expand_outputs(const LayerInput& in, const Floats& expansion, const Floats& sums) {
  const MlaConfig& mla = *in.config.mla;
  const std::int64_t heads = in.config.heads, v_dim = in.config.v_head_dim;
  Floats out(static_cast<std::size_t>(in.tokens * heads * v_dim));
  parallel_for(in.context.threads, heads, [&](std::int64_t h) {
    const float* w = expansion.data() + (h * (mla.nope_dim + v_dim) + mla.nope_dim) * mla.kv_rank;
    matmul_kernel().by_rows({sums.data() + h * mla.kv_rank, heads * mla.kv_rank, in.tokens, w, mla.kv_rank, v_dim,
                             mla.kv_rank, out.data() + h * v_dim, heads * v_dim, false});
  });
  return out;
}

/// [heads][past tokens][dim] and [heads][new tokens][dim] -> [heads][all tokens][dim].
Floats append_heads(const Floats& past, const Floats& added, std::int64_t heads) {
  const auto of_past = static_cast<std::ptrdiff_t>(past.size()) / heads;
  const auto of_added = static_cast<std::ptrdiff_t>(added.size()) / heads;
  Floats out;
  out.reserve(past.size() + added.size());
  for (std::ptrdiff_t h = 0; h < heads; ++h) {
    out.insert(out.end(), past.begin() + h * of_past, past.begin() + (h + 1) * of_past);
    out.insert(out.end(), added.begin() + h * of_added, added.begin() + (h + 1) * of_added);
  }
  return out;
}

/// kv's keys and values become those of all tokens read, in the state too.
void join_state(KvState& state, LayerKv& kv) {
  if (kv.recent > 0) throw Error("a cache that keeps its newest tokens exact cannot be decoded step by step");
  KvState::Layer& layer = state.layers[static_cast<std::size_t>(kv.layer)];
  layer.k = append_heads(layer.k, kv.k, kv.kv_heads);
  layer.v = append_heads(layer.v, kv.v, kv.kv_heads);
  kv.k = layer.k;
  kv.v = layer.v;
}

}  // namespace

void run_attention(const LayerInput& in, const RopeTable& rope, const PrefillOptions& options, std::span<const float> x,
                   std::vector<float>& out) {
  LayerKv& kv = in.buffers.kv;
  describe_layer(in, kv);
  Floats expansion;
  if (in.config.mla) {
    const Floats latent = project_latent(in, rope, x);
    kv.q = project_latent_queries(in, rope, x);
    if (options.mla_latent) {
      expansion = read_expansion(in);
      const Floats q = std::move(kv.q);
      absorb_latent(in, q, latent, expansion, kv);
    } else {
      expand_latent(in, latent, kv);
    }
  } else {
    project(in, rope, x, kv);
  }
  if (options.hook) options.hook(kv);
  if (options.state != nullptr) join_state(*options.state, kv);
  AttentionTask task{kv.q, kv.k, kv.v, kv.heads, kv.kv_heads, in.past + kv.tokens, kv.k_dim, kv.v_dim, kv.scale, in.past};
  task.softcap = kv.softcap;
  task.window = kv.window;
  task.sinks = kv.sinks;
  task.recent = kv.recent;
  task.recent_k = kv.recent_k;
  task.recent_v = kv.recent_v;
  Floats& mixed = in.buffers.mixed;
  if (in.context.device != nullptr) {
    mixed.resize(static_cast<std::size_t>(in.tokens * kv.heads * kv.v_dim));
    in.context.device->attend(task, in.context.threads, mixed);
  } else {
    mixed = attend(task, in.context.threads);
  }
  if (!expansion.empty()) mixed = expand_outputs(in, expansion, mixed);
  apply_linear(in.context, in.layout.attention.o, mixed, in.tokens, out);
}

}  // namespace tq
