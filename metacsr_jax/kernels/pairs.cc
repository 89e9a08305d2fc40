// Sums over pairs of positions of a sequence: scores W3^T sigmoid(q_m + k_n) with two derivatives, and mixtures of earlier and later items.
//
// One pass over the pairs while they are in the nearest cache, where XLA takes one for each result. Pairs of weight zero, padding for
// instance, are passed over where they add nothing.

#include <limits>
#include <vector>

#include "parallel.h"

namespace metacsr {
namespace {

constexpr int64_t kSequences = 8;  // in a chunk

// A sigmoid s = 1 / (1 + odds) of odds = exp(-q - k). Its derivatives are made of the odds, not of 1 - s, which loses its digits near 1.
struct Sigmoid {
  float odds, s;
  explicit Sigmoid(float product) : odds(product > 1e30f ? 1e30f : product), s(1.0f / (1.0f + odds)) {}
  float slope() const { return s * s * odds; }               // s (1 - s)
  float bend() const { return s * (odds - 1.0f); }            // 1 - 2 s, what the second derivative has besides
};

// A result's part of an entry of the batch, `size` numbers, all zero.
float* Zeroed(Result& result, int64_t entry, int64_t size) {
  float* part = result->typed_data() + entry * size;
  std::fill(part, part + size, 0.0f);
  return part;
}

// Calls work(entry) for every entry of a batch.
template <typename Work>
ffi::Error ForEachSequence(ffi::ThreadPool& pool, const Batch& batch, const Work& work) {
  ForEach(pool, batch.count(), kSequences, work);
  return ffi::Error::Success();
}

// With a = exp(-q), b = exp(-k): out[m, n] = sum_d weight[d] / (1 + a[m, d] b[n, d])
ffi::Error PairScore(ffi::ThreadPool pool, Floats a, Floats b, Floats weight, Result out) {
  const int64_t length = Axis(a, 2), width = Axis(a, 1);
  const Batch batch(*out, 2);
  const auto a_of = batch.Parts(a), b_of = batch.Parts(b), weight_of = batch.Parts(weight);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* am = a.typed_data() + a_of[entry] * length * width;
    const float* w = weight.typed_data() + weight_of[entry] * width;
    float* to = out->typed_data() + entry * length * length;
    for (int64_t m = 0; m < length; ++m, am += width) {
      const float* bn = b.typed_data() + b_of[entry] * length * width;
      for (int64_t n = 0; n < length; ++n, bn += width) {
        float sum = 0;
        for (int64_t d = 0; d < width; ++d) sum += w[d] / (1.0f + am[d] * bn[d]);
        *to++ = sum;
      }
    }
  });
}

// First derivative of sum(g * PairScore) for q, k and weight.
ffi::Error PairPull(ffi::ThreadPool pool, Floats a, Floats b, Floats weight, Floats g, Result d_q, Result d_k, Result d_weight) {
  const int64_t length = Axis(a, 2), width = Axis(a, 1);
  const Batch batch(*d_q, 2);
  const auto a_of = batch.Parts(a), b_of = batch.Parts(b), weight_of = batch.Parts(weight), g_of = batch.Parts(g);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* am = a.typed_data() + a_of[entry] * length * width;
    const float* w = weight.typed_data() + weight_of[entry] * width;
    const float* gmn = g.typed_data() + g_of[entry] * length * length;
    float* q = Zeroed(d_q, entry, length * width);
    float* k = Zeroed(d_k, entry, length * width);
    float* __restrict dw = Zeroed(d_weight, entry, width);
    for (int64_t m = 0; m < length; ++m, am += width) {
      float* __restrict qm = q + m * width;
      for (int64_t n = 0; n < length; ++n) {
        const float gv = *gmn++;
        if (gv == 0.0f) continue;
        const float* bn = b.typed_data() + (b_of[entry] * length + n) * width;
        float* __restrict kn = k + n * width;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) {
          const Sigmoid sigmoid(am[d] * bn[d]);
          const float slope = gv * sigmoid.slope();
          qm[d] += slope;
          kn[d] += slope;
          dw[d] += gv * sigmoid.s;
        }
      }
    }
    for (int64_t m = 0; m < length; ++m) {
      for (int64_t d = 0; d < width; ++d) q[m * width + d] *= w[d];
      for (int64_t d = 0; d < width; ++d) k[m * width + d] *= w[d];
    }
  });
}

// First derivative of sum(u * d_q) + sum(v * d_k) + sum(r * d_weight) of PairPull for q, k, weight and g.
ffi::Error PairPullPull(ffi::ThreadPool pool, Floats a, Floats b, Floats weight, Floats g, Floats u, Floats v, Floats r, Result d_q,
                        Result d_k, Result d_weight, Result d_g) {
  const int64_t length = Axis(a, 2), width = Axis(a, 1);
  const Batch batch(*d_q, 2);
  const auto a_of = batch.Parts(a), b_of = batch.Parts(b), weight_of = batch.Parts(weight), g_of = batch.Parts(g);
  const auto u_of = batch.Parts(u), v_of = batch.Parts(v), r_of = batch.Parts(r);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* w = weight.typed_data() + weight_of[entry] * width;
    const float* rd = r.typed_data() + r_of[entry] * width;
    float* q = Zeroed(d_q, entry, length * width);
    float* k = Zeroed(d_k, entry, length * width);
    float* __restrict dw = Zeroed(d_weight, entry, width);
    for (int64_t m = 0; m < length; ++m) {
      const float* am = a.typed_data() + (a_of[entry] * length + m) * width;
      const float* um = u.typed_data() + (u_of[entry] * length + m) * width;
      float* __restrict qm = q + m * width;
      for (int64_t n = 0; n < length; ++n) {
        const float gv = g.typed_data()[(g_of[entry] * length + m) * length + n];
        const float* bn = b.typed_data() + (b_of[entry] * length + n) * width;
        const float* vn = v.typed_data() + (v_of[entry] * length + n) * width;
        float* __restrict kn = k + n * width;
        float sum = 0;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) {
          const Sigmoid sigmoid(am[d] * bn[d]);
          const float first = sigmoid.slope(), moved = um[d] + vn[d], to = moved * w[d];
          const float slope = gv * first * (to * sigmoid.bend() + rd[d]);
          qm[d] += slope;
          kn[d] += slope;
          dw[d] += gv * first * moved;
          sum += first * to + rd[d] * sigmoid.s;
        }
        d_g->typed_data()[(entry * length + m) * length + n] = sum;
      }
    }
  });
}

// out[n, 0] = sum over m < n of weight[m, n] item[m]; out[n, 1] = the same over m > n
ffi::Error Mix(ffi::ThreadPool pool, Floats weight, Floats item, Result out) {
  const int64_t length = Axis(item, 2), width = Axis(item, 1);
  const Batch batch(*out, 3);
  const auto weight_of = batch.Parts(weight), item_of = batch.Parts(item);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* w = weight.typed_data() + weight_of[entry] * length * length;
    float* to = Zeroed(out, entry, length * 2 * width);
    for (int64_t m = 0; m < length; ++m) {
      const float* from = item.typed_data() + (item_of[entry] * length + m) * width;
      for (int64_t n = 0; n < length; ++n) {
        const float wv = *w++;
        if (n == m || wv == 0.0f) continue;
        float* __restrict sum = to + (2 * n + (m > n)) * width;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) sum[d] += wv * from[d];
      }
    }
  });
}

// out[m] = sum over n of weight[m, n] mixed[n, m > n], n other than m
ffi::Error Unmix(ffi::ThreadPool pool, Floats weight, Floats mixed, Result out) {
  const int64_t length = Axis(*out, 2), width = Axis(*out, 1);
  const Batch batch(*out, 2);
  const auto weight_of = batch.Parts(weight), mixed_of = batch.Parts(mixed);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* w = weight.typed_data() + weight_of[entry] * length * length;
    const float* from = mixed.typed_data() + mixed_of[entry] * length * 2 * width;
    float* to = Zeroed(out, entry, length * width);
    for (int64_t m = 0; m < length; ++m, to += width) {
      float* __restrict sum = to;
      for (int64_t n = 0; n < length; ++n) {
        const float wv = *w++;
        if (n == m || wv == 0.0f) continue;
        const float* row = from + (2 * n + (m > n)) * width;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) sum[d] += wv * row[d];
      }
    }
  });
}

// out[m, n] = item[m] . mixed[n, m > n], 0 where n is m
ffi::Error MixDot(ffi::ThreadPool pool, Floats item, Floats mixed, Result out) {
  const int64_t length = Axis(item, 2), width = Axis(item, 1);
  const Batch batch(*out, 2);
  const auto item_of = batch.Parts(item), mixed_of = batch.Parts(mixed);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* with = mixed.typed_data() + mixed_of[entry] * length * 2 * width;
    float* to = out->typed_data() + entry * length * length;
    for (int64_t m = 0; m < length; ++m) {
      const float* from = item.typed_data() + (item_of[entry] * length + m) * width;
      for (int64_t n = 0; n < length; ++n) {
        const float* row = with + (2 * n + (m > n)) * width;
        float sum = 0;
        for (int64_t d = 0; d < width; ++d) sum += from[d] * row[d];
        *to++ = n == m ? 0.0f : sum;
      }
    }
  });
}

// out[m, n] = sum (or maximum) of x[k, n] over the k that are on m's side of n; 0 where m is n
template <bool kMaximum>
ffi::Error OverSide(ffi::ThreadPool pool, Floats x, Result out) {
  const int64_t length = Axis(x, 1);
  const Batch batch(*out, 2);
  const auto x_of = batch.Parts(x);
  return ForEachSequence(pool, batch, [&](int64_t entry) {
    const float* from = x.typed_data() + x_of[entry] * length * length;
    float* to = out->typed_data() + entry * length * length;
    std::vector<float> total(2 * length, kMaximum ? -std::numeric_limits<float>::infinity() : 0.0f);
    for (int64_t m = 0; m < length; ++m) {
      for (int64_t n = 0; n < length; ++n) {
        float& side = total[(m > n) * length + n];
        const float value = from[m * length + n];
        if (n != m) side = kMaximum ? (value > side || value != value ? value : side) : side + value;
      }
    }
    for (int64_t m = 0; m < length; ++m) {
      for (int64_t n = 0; n < length; ++n) to[m * length + n] = n == m ? 0.0f : total[(m > n) * length + n];
    }
  });
}

}  // namespace

#define METACSR_BIND ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_PairScore, PairScore, METACSR_BIND.Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_PairPull, PairPull,
                              METACSR_BIND.Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>()
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_PairPullPull, PairPullPull,
                              METACSR_BIND.Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>()
                                  .Arg<Floats>().Ret<Floats>().Ret<Floats>().Ret<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_SideSum, OverSide<false>, METACSR_BIND.Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_SideMax, OverSide<true>, METACSR_BIND.Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_Mix, Mix, METACSR_BIND.Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_Unmix, Unmix, METACSR_BIND.Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_MixDot, MixDot, METACSR_BIND.Arg<Floats>().Arg<Floats>().Ret<Floats>());

}  // namespace metacsr
