// Products of matrices as small as a task's.
//
// A library's products spend much of their time on such sizes in distributing and copying (docs/performance.md). Here each thread takes
// rows and columns of the result, and a tile of it stays in registers while the sum over the depth is taken.
#ifndef METACSR_PRODUCT_H_
#define METACSR_PRODUCT_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "parallel.h"

namespace metacsr {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16, kRows = 14;  // of 32 registers 28 are the tile, two a row of b
#elif defined(__AVX__)
constexpr int64_t kLanes = 8, kRows = 6;  // of 16 registers
#elif defined(__aarch64__)
constexpr int64_t kLanes = 4, kRows = 14;
#else
constexpr int64_t kLanes = 4, kRows = 6;
#endif
constexpr int64_t kColumns = 2 * kLanes;  // of a tile
constexpr int64_t kDepth = 128;           // of what is packed at a time
constexpr int64_t kStep = 16;             // from one column of packed rows to the next
constexpr int64_t kTiles = 4;             // of packed rows
constexpr int64_t kParts = 8;             // that are many
constexpr int64_t kPage = 1024;           // floats, at a distance of which rows push each other out of the nearest cache

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4)));

static_assert(kRows <= kStep && kRows * (kDepth + kStep) <= kTiles * kDepth * kStep);

// A matrix that may be turned round: entry (r, c) at `at[r * row + c * column]`. One of the strides is 1.
struct Matrix {
  const float* at;
  int64_t row, column;
};

inline Matrix Turned(const Matrix& matrix) { return {matrix.at, matrix.column, matrix.row}; }

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Range number `n` of `parts` nearly equal ones.
inline Range Part(Range whole, int64_t parts, int64_t n) {
  return {whole.begin + whole.size() * n / parts, whole.begin + whole.size() * (n + 1) / parts};
}

inline int64_t PartsOf(int64_t size, int64_t at_most) { return (size + at_most - 1) / at_most; }

// c[kTile, kColumns] = a b, or c += a b. Entry (r, k) of a is at `a[r * row + k * kNext]`.
template <int64_t kTile, int64_t kNext>
void Tile(const float* __restrict a, int64_t row, const float* __restrict b, int64_t b_row, int64_t depth, float* __restrict c,
          int64_t c_row, bool add) {
  Vector left[kTile], right[kTile];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kTile; ++r) left[r] = right[r] = Vector{};
  constexpr int64_t kEach = 3;  // rows that share an address
  const float* from[(kTile + kEach - 1) / kEach];
  for (int64_t r = 0; r < kTile; r += kEach) from[r / kEach] = a + r * row;
  for (int64_t k = 0; k < depth; ++k) {
    const Vector* bk = reinterpret_cast<const Vector*>(b + k * b_row);
    const Vector b_left = bk[0], b_right = bk[1];
#pragma GCC unroll 16
    for (int64_t r = 0; r < kTile; ++r) {
      const float x = from[r / kEach][r % kEach * row + k * kNext];
      left[r] += x * b_left;
      right[r] += x * b_right;
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kTile; ++r) {
    Vector* to = reinterpret_cast<Vector*>(c + r * c_row);
    to[0] = add ? to[0] + left[r] : left[r];
    to[1] = add ? to[1] + right[r] : right[r];
  }
}

using TileFunction = decltype(&Tile<1, 1>);

template <int64_t kNext, int64_t... kFewer>
TileFunction TileOf(int64_t rows, std::integer_sequence<int64_t, kFewer...>) {
  static constexpr TileFunction kTable[] = {Tile<kFewer + 1, kNext>...};
  return kTable[rows - 1];
}

template <int64_t kNext>
TileFunction TileOf(int64_t rows) {
  return TileOf<kNext>(rows, std::make_integer_sequence<int64_t, kRows>());
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define METACSR_SHUFFLE
#endif
#endif

#ifdef METACSR_SHUFFLE
// Exchanges entry (i, j + kApart) with (i + kApart, j) of every square of twice kApart.
template <int64_t kApart, int64_t... kLane>
void Exchange(Vector* square, std::integer_sequence<int64_t, kLane...>) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    if (i & kApart) continue;
    const Vector low = square[i], high = square[i + kApart];
    square[i] = __builtin_shufflevector(low, high, (kLane & kApart ? kLanes + kLane - kApart : kLane)...);
    square[i + kApart] = __builtin_shufflevector(low, high, (kLane & kApart ? kLanes + kLane : kLane + kApart)...);
  }
}
#endif

// to[j, i] = from[i, j] for kLanes rows and columns
inline void Turn(const float* from, int64_t from_row, float* to, int64_t to_row) {
#ifdef METACSR_SHUFFLE
  constexpr auto kAll = std::make_integer_sequence<int64_t, kLanes>();
  Vector square[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) square[i] = *reinterpret_cast<const Vector*>(from + i * from_row);
  if constexpr (kLanes > 8) Exchange<8>(square, kAll);
  if constexpr (kLanes > 4) Exchange<4>(square, kAll);
  Exchange<2>(square, kAll);
  Exchange<1>(square, kAll);
  for (int64_t i = 0; i < kLanes; ++i) *reinterpret_cast<Vector*>(to + i * to_row) = square[i];
#else
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t j = 0; j < kLanes; ++j) to[j * to_row + i] = from[i * from_row + j];
  }
#endif
}

// Columns of b side by side, kColumns to a row, with zeros where there are fewer.
inline void PackColumns(const Matrix& b, Range depth, Range columns, float* to) {
  const int64_t wide = columns.size();
  const float* from = b.at + depth.begin * b.row + columns.begin * b.column;
  if (b.column == 1 && wide == kColumns) {
    for (int64_t k = 0; k < depth.size(); ++k) std::copy_n(from + k * b.row, kColumns, to + k * kColumns);
    return;
  }
  int64_t done = 0;  // of the depth
  if (b.row == 1 && wide == kColumns) {
    for (; done + kLanes <= depth.size(); done += kLanes) {
      for (int64_t n = 0; n < kColumns; n += kLanes) Turn(from + done + n * b.column, b.column, to + done * kColumns + n, kColumns);
    }
  }
  for (int64_t k = done; k < depth.size(); ++k) {
    for (int64_t n = 0; n < kColumns; ++n) to[k * kColumns + n] = n < wide ? from[k * b.row + n * b.column] : 0.0f;
  }
}

// What a [M, K] b [K, N] adds to the rows of a result from `first` on; a lacks the rows before.
struct Term {
  Matrix a, b;
  int64_t first, depth;

  const float* row_of_a(int64_t r, int64_t k) const { return a.at + (r - first) * a.row + k * a.column; }
};

// Adds some of a term's depth, at most kDepth, to rows and columns of the result, or begins it with that.
inline void AddTerm(const Term& term, Range depth, Range rows, Range columns, float* c, int64_t c_row, bool add) {
  alignas(64) float packed_b[kDepth * kColumns];
  alignas(64) float packed_a[kTiles * kDepth * kStep];
  const bool turned = term.a.column != 1, copied = !turned && term.a.row % kPage == 0;
  const int64_t tiles = PartsOf(rows.size(), kRows);
  if (turned) {  // tile by tile, for all columns
    for (int64_t t = 0; t < tiles; ++t) {
      const Range these = Part(rows, tiles, t);
      const float* from = term.row_of_a(these.begin, depth.begin);
      float* to = packed_a + t * kDepth * kStep;
      for (int64_t k = 0; k < depth.size(); ++k) std::copy_n(from + k * term.a.column, these.size(), to + k * kStep);
    }
  }
  for (int64_t n = columns.begin; n < columns.end; n += kColumns) {
    const Range panel = {n, std::min(columns.end, n + kColumns)};
    const float* b = packed_b;
    int64_t b_row = kColumns;
    if (tiles == 1 && term.b.column == 1 && panel.size() == kColumns) {
      b = term.b.at + depth.begin * term.b.row + n, b_row = term.b.row;
    } else {
      PackColumns(term.b, depth, panel, packed_b);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const Range these = Part(rows, tiles, t);
      const float* a = term.row_of_a(these.begin, depth.begin);
      int64_t a_row = term.a.row;
      if (turned) {
        a = packed_a + t * kDepth * kStep, a_row = 1;
      } else if (copied) {
        for (int64_t r = 0; r < these.size(); ++r) std::copy_n(a + r * a_row, depth.size(), packed_a + r * (kDepth + kStep));
        a = packed_a, a_row = kDepth + kStep;
      }
      const TileFunction tile = turned ? TileOf<kStep>(these.size()) : TileOf<1>(these.size());
      float* to = c + these.begin * c_row + n;
      if (panel.size() == kColumns) {
        tile(a, a_row, b, b_row, depth.size(), to, c_row, add);
        continue;
      }
      float whole[kRows * kColumns];
      tile(a, a_row, b, b_row, depth.size(), whole, kColumns, false);
      for (int64_t r = 0; r < these.size(); ++r) {
        for (int64_t j = 0; j < panel.size(); ++j) to[r * c_row + j] = (add ? to[r * c_row + j] : 0.0f) + whole[r * kColumns + j];
      }
    }
  }
}

// A result c [M, N], the sum of its terms, of which the first has all rows; the first factors of all are turned round, or none.
struct Product {
  float* c;
  int64_t rows, columns;
  std::vector<Term> terms;

  // Into how many parts threads share it. Rows that are turned round are worth packing for many columns, columns worth packing for many
  // rows; with many parts of rows each takes all columns, so that its rows are read once.
  bool turned() const { return !terms.empty() && terms[0].a.column != 1; }
  int64_t row_parts() const { return PartsOf(rows, turned() ? kTiles * kRows : 256); }
  int64_t column_parts() const {
    const bool many = row_parts() >= kParts;
    return PartsOf(columns, turned() ? (many ? 4 : 2) * kColumns : many ? std::max(columns, kColumns) : kColumns);
  }

  void Compute(Range rows, Range columns) const {
    bool add = false;
    for (const Term& term : terms) {
      const Range some = {std::max(rows.begin, term.first), rows.end};
      for (int64_t k = 0; k < term.depth && some.size() > 0; k += kDepth, add = true) {
        AddTerm(term, {k, std::min(term.depth, k + kDepth)}, some, columns, c, this->columns, add);
      }
    }
    if (add) return;
    for (int64_t r = rows.begin; r < rows.end; ++r) std::fill_n(c + r * this->columns + columns.begin, columns.size(), 0.0f);
  }
};

inline ffi::Error ComputeAll(ffi::ThreadPool& pool, const std::vector<Product>& products) {
  std::vector<int64_t> start = {0};  // of each product's chunks
  for (const Product& product : products) start.push_back(start.back() + product.row_parts() * product.column_parts());
  ParallelFor(pool, start.back(), [&](int64_t chunk) {
    const int64_t n = std::upper_bound(start.begin(), start.end(), chunk) - start.begin() - 1;
    const Product& product = products[n];
    const int64_t parts = product.column_parts(), row = (chunk - start[n]) / parts, column = (chunk - start[n]) % parts;
    const int64_t wide = PartsOf(PartsOf(product.columns, kColumns), parts) * kColumns;  // whole tiles
    const Range columns = {std::min(product.columns, column * wide), std::min(product.columns, (column + 1) * wide)};
    product.Compute(Part({0, product.rows}, product.row_parts(), row), columns);
  });
  return ffi::Error::Success();
}

}  // namespace metacsr

#endif  // METACSR_PRODUCT_H_
