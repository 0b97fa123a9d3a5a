/* Transformer blocks for few tokens on CPU cores, where the time goes into reading weights: products
 * that read them once, as they are stored, with the normalisation before and the sum or the gate
 * after; and attention. few.py compiles this file, tests it against torch, and calls it. Everything
 * is float32, or bfloat16 where `short_` is 1, and added up in float32. */

#include "vectors.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
enum { PAIRS = 1 };
#else
enum { PAIRS = 0 };
#endif

/* Rows of x and of the weight that are multiplied together: their sums fill the registers. */
enum { ROWS = 5, COLUMNS = LANES == 16 ? 4 : 2, KEYS = 4096, WIDTH = 256 };

long lanes(void) { return LANES << PAIRS; }
long columns(void) { return COLUMNS; }
long most_keys(void) { return KEYS; }
long most_width(void) { return WIDTH; }

/* One row as float32, normalised if there is a gain. */
INLINE void normalise(const void *x, const void *gain, float eps, float *out, long width,
                    long short_) {
    vec sum = {0};
    for (long i = 0; i < width; i += LANES) {
        vec v = load(x, i, short_);
        STORE(out + i, v);
        sum += v;
    }
    if (!gain) return;
    float mean = total(sum) / width;
    float scale = norm_scale(out, mean, width, eps);
    for (long i = 0; i < width; i += LANES)
        STORE(out + i, (LOAD(out + i) - mean) * scale * load(gain, i, short_));
}

/* One row as it is multiplied: float32, or bfloat16 where the machine multiplies pairs of them. */
INLINE void prepare(const void *x, const void *gain, float eps, float *out, long width,
                    long short_) {
    normalise(x, gain, eps, out, width, short_);
    if (PAIRS && short_)
        for (long i = 0; i < width; i += LANES) store(out, i, LOAD(out + i), 1);
}

/* All rows, by the threads of the parallel region that calls it. */
static void prepare_all(const void *x, const void *gain, float eps, float *prepared, long rows,
                        long in, long short_) {
#pragma omp for
    for (long r = 0; r < rows; r++) {
        if (short_) prepare(at(x, r * in, 1), gain, eps, prepared + r * in, in, 1);
        else prepare(at(x, r * in, 0), gain, eps, prepared + r * in, in, 0);
    }
}

/* Add products of LANES numbers, or of as many pairs, to sums. */
INLINE vec multiply_add(const float *x, const void *w, long i, long short_, vec sum) {
#if defined(__AVX512BF16__)
    if (short_)
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(at(x, i, 1)),
                                     (__m512bh)_mm512_loadu_si512(at(w, i, 1)));
#endif
    return sum + LOAD(x + i) * load(w, i, short_);
}

/* Products of some rows of x, `in` floats apart, with COLUMNS rows of weights. */
INLINE void multiply(const float *x, const void *const *w, long in, long rows, long short_,
                     float found[ROWS][COLUMNS]) {
    vec sums[ROWS][COLUMNS] = {{{0}}};
    for (long i = 0; i < in; i += LANES << (PAIRS && short_)) {
        /* The next rows: in two bytes they are short, and the machine sees them late. */
        if (short_)
            for (long c = 0; c < COLUMNS; c++)
                __builtin_prefetch(at(w[c], COLUMNS * in + i, 1));
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < COLUMNS; c++)
                sums[r][c] = multiply_add(x + r * in, w[c], i, short_, sums[r][c]);
    }
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < COLUMNS; c++) found[r][c] = total(sums[r][c]);
}

INLINE void multiply_up_to(const float *x, const void *const *w, long in, long rows, long short_,
                           float found[ROWS][COLUMNS]) {
    if (rows >= ROWS) multiply(x, w, in, ROWS, short_, found);
    else if (rows == 4) multiply(x, w, in, 4, short_, found);
    else if (rows == 3) multiply(x, w, in, 3, short_, found);
    else if (rows == 2) multiply(x, w, in, 2, short_, found);
    else multiply(x, w, in, 1, short_, found);
}

/* Columns of y = prepared · w^T, plus `added` if given. */
INLINE void product_some(const float *prepared, const void *w, const void *added, void *y,
                         long column, long rows, long in, long out, long short_) {
    const void *weights[COLUMNS];
    for (long c = 0; c < COLUMNS; c++) weights[c] = at(w, (column + c) * in, short_);
    for (long row = 0; row < rows; row += ROWS) {
        float found[ROWS][COLUMNS] = {{0}};
        multiply_up_to(prepared + row * in, weights, in, rows - row, short_, found);
        for (long r = 0; r < ROWS && row + r < rows; r++)
            for (long c = 0; c < COLUMNS; c++) {
                long i = (row + r) * out + column + c;
                float before = added ? number(added, i, short_) : 0;
                store_number(y, i, before + found[r][c], short_);
            }
    }
}

/* y (row, out) = x (row, in), normalised if there is a gain, times w (out, in); plus `added` (row,
 * out) if given, which may be y. `prepared` is room for (row, in) floats. */
void product(const void *x, const void *gain, double eps, const void *w, const void *added, void *y,
             float *prepared, long rows, long in, long out, long short_, long threads) {
#pragma omp parallel num_threads(threads)
    {
        prepare_all(x, gain, eps, prepared, rows, in, short_);
#pragma omp for
        for (long c = 0; c < out; c += COLUMNS) {
            if (short_) product_some(prepared, w, added, y, c, rows, in, out, 1);
            else product_some(prepared, w, added, y, c, rows, in, out, 0);
        }
    }
}

INLINE vec silu(vec x) {
    vec small = exponential(choose(x > 0, -x, x)), share = 1 / (1 + small);
    return x * choose(x > 0, share, small * share);
}

/* Some columns of SiLU(prepared · w1^T) · (prepared · w3^T): half of the registers for each. */
INLINE void gate_some(const float *prepared, const void *w1, const void *w3, void *y, long column,
                      long rows, long in, long out, long short_) {
    enum { HALF = COLUMNS / 2 };
    const void *weights[COLUMNS];
    for (long c = 0; c < HALF; c++) {
        weights[c] = at(w1, (column + c) * in, short_);
        weights[HALF + c] = at(w3, (column + c) * in, short_);
    }
    for (long row = 0; row < rows; row += ROWS) {
        float found[ROWS][COLUMNS] = {{0}};
        multiply_up_to(prepared + row * in, weights, in, rows - row, short_, found);
        float opens[ROWS * HALF + LANES] = {0};
        for (long r = 0; r < ROWS; r++)
            for (long c = 0; c < HALF; c++) opens[r * HALF + c] = found[r][c];
        for (long i = 0; i < ROWS * HALF; i += LANES) STORE(opens + i, silu(LOAD(opens + i)));
        for (long r = 0; r < ROWS && row + r < rows; r++)
            for (long c = 0; c < HALF; c++)
                store_number(y, (row + r) * out + column + c,
                             opens[r * HALF + c] * found[r][HALF + c], short_);
    }
}

/* y (row, out) = SiLU(n · w1^T) · (n · w3^T), n being x (row, in) normalised. */
void gate(const void *x, const void *gain, double eps, const void *w1, const void *w3, void *y,
          float *prepared, long rows, long in, long out, long short_, long threads) {
#pragma omp parallel num_threads(threads)
    {
        prepare_all(x, gain, eps, prepared, rows, in, short_);
#pragma omp for
        for (long c = 0; c < out; c += COLUMNS / 2) {
            if (short_) gate_some(prepared, w1, w3, y, c, rows, in, out, 1);
            else gate_some(prepared, w1, w3, y, c, rows, in, out, 0);
        }
    }
}

/* The answer of one query to the keys and values of its head. */
INLINE void answer(const void *q, const void *k, const void *v, void *out, long keys, long width,
                   long key_step, long value_step, long short_) {
    float query[WIDTH], chance[KEYS + LANES], largest = -__builtin_inff(), sum = 0;
    float scale = 1 / __builtin_sqrtf(width);
    for (long i = 0; i < width; i += LANES) STORE(query + i, load(q, i, short_) * scale);
    for (long n = 0; n < keys; n++) {
        vec score = {0};
        for (long i = 0; i < width; i += LANES)
            score += LOAD(query + i) * load(k, n * key_step + i, short_);
        chance[n] = total(score);
        largest = chance[n] > largest ? chance[n] : largest;
    }
    for (long n = keys; n < keys + LANES; n++) chance[n] = -__builtin_inff();
    for (long n = 0; n < keys; n += LANES) STORE(chance + n, exponential(LOAD(chance + n) - largest));
    for (long n = 0; n < keys; n++) sum += chance[n];
    for (long i = 0; i < width; i += LANES) {
        /* Several sums, so that they do not wait for each other. */
        vec heard[4] = {{0}};
        long n = 0;
        for (; n + 4 <= keys; n += 4)
            for (long p = 0; p < 4; p++)
                heard[p] += chance[n + p] * load(v, (n + p) * value_step + i, short_);
        for (; n < keys; n++) heard[0] += chance[n] * load(v, n * value_step + i, short_);
        store(out, i, (heard[0] + heard[1] + heard[2] + heard[3]) / sum, short_);
    }
}

/* Attention of queries q to keys k and values v, each (object, head, token, width); of each, how far
 * objects, heads and tokens are apart. */
void attend(const void *q, const void *k, const void *v, void *out, const long *steps, long objects,
            long heads, long queries, long keys, long width, long short_, long threads) {
#pragma omp parallel for num_threads(threads) collapse(3)
    for (long b = 0; b < objects; b++)
        for (long h = 0; h < heads; h++)
            for (long m = 0; m < queries; m++) {
                long own = b * steps[0] + h * steps[1] + m * steps[2];
                long key = b * steps[3] + h * steps[4], value = b * steps[6] + h * steps[7];
                long to = b * steps[9] + h * steps[10] + m * steps[11];
                if (short_)
                    answer(at(q, own, 1), at(k, key, 1), at(v, value, 1), (void *)at(out, to, 1),
                           keys, width, steps[5], steps[8], 1);
                else
                    answer(at(q, own, 0), at(k, key, 0), at(v, value, 0), (void *)at(out, to, 0),
                           keys, width, steps[5], steps[8], 0);
            }
}
