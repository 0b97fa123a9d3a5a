/* What lies between the products of blocks, on CPU cores: normalisation, gate and chances, forward
 * and, for training, backward, each in one pass. between.py compiles this file, tests it against
 * torch, and calls it. Numbers are float32, or bfloat16 where a `short` is 1; all is computed in
 * float32 and rounded once. Sums do not depend on the number of threads. */

#include "vectors.h"

/* Widest rows that are normalised, most keys, rows whose gains' gradients are added up together. */
enum { WIDTH = 8192, KEYS = 8192, CHUNK = 64 };

long lanes(void) { return LANES; }
long most_width(void) { return WIDTH; }
long most_keys(void) { return KEYS; }
long chunk(void) { return CHUNK; }

/* Where a row begins, of rows (object, token, head) that lie `steps` apart. */
INLINE long place(long row, const long *steps, long tokens, long heads) {
    long head = row % heads, token = row / heads % tokens, object = row / heads / tokens;
    return object * steps[0] + token * steps[1] + head * steps[2];
}

/* A row as float32 of mean 0 and variance 1; returns one over the deviation it had. */
INLINE float standardise(const void *x, float eps, float *row, long width, long short_) {
    vec sum = {0};
    for (long i = 0; i < width; i += LANES) {
        vec v = load(x, i, short_);
        STORE(row + i, v);
        sum += v;
    }
    float mean = total(sum) / width, scale = norm_scale(row, mean, width, eps);
    for (long i = 0; i < width; i += LANES) STORE(row + i, (LOAD(row + i) - mean) * scale);
    return scale;
}

INLINE void norm_row(const void *x, const float *gain, float eps, float factor, void *standard,
                     void *normed, float *scale, long width, long x_short, long short_) {
    float row[WIDTH];
    float found = standardise(x, eps, row, width, x_short);
    if (scale) *scale = found;
    for (long i = 0; i < width; i += LANES) {
        vec v = LOAD(row + i);
        if (standard) store(standard, i, v, short_);
        store(normed, i, v * LOAD(gain + i) * factor, short_);
    }
}

/* normed = standard · gain · factor, standard being x with mean 0 and variance 1 in each row;
 * standard and scales, one over the deviations, only if they are asked for. `steps` are those of x,
 * then those of what is written. */
void norm(const void *x, const float *gain, double eps, double factor, void *standard, void *normed,
          float *scales, const long *steps, long objects, long tokens, long heads, long width,
          long x_short, long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < objects * tokens * heads; r++) {
        const void *from = at(x, place(r, steps, tokens, heads), x_short);
        long to = place(r, steps + 3, tokens, heads);
        void *kept = standard ? (void *)at(standard, to, short_) : 0;
        void *out = (void *)at(normed, to, short_);
        float *scale = scales ? scales + r : 0;
        if (x_short && short_) norm_row(from, gain, eps, factor, kept, out, scale, width, 1, 1);
        else if (!x_short && !short_)
            norm_row(from, gain, eps, factor, kept, out, scale, width, 0, 0);
        else norm_row(from, gain, eps, factor, kept, out, scale, width, x_short, short_);
    }
}

/* Gradient of a row, which was x; adds that of the gain to `part`. With `scale`, x is standardised. */
INLINE void norm_row_back(const void *g, const void *x, const float *scale, const float *gain,
                          float eps, float factor, void *dx, float *part, long width, long g_short,
                          long x_short, long dx_short) {
    float row[WIDTH], said[WIDTH], size;
    if (scale) {
        for (long i = 0; i < width; i += LANES) STORE(row + i, load(x, i, x_short));
        size = *scale;
    } else {
        size = standardise(x, eps, row, width, x_short);
    }
    vec sum = {0}, along = {0};
    for (long i = 0; i < width; i += LANES) {
        vec v = LOAD(row + i), given = load(g, i, g_short) * factor;
        STORE(part + i, LOAD(part + i) + given * v);
        given *= LOAD(gain + i);
        STORE(said + i, given);
        sum += given;
        along += given * v;
    }
    float mean = total(sum) / width, slope = total(along) / width;
    for (long i = 0; i < width; i += LANES)
        store(dx, i, (LOAD(said + i) - mean - LOAD(row + i) * slope) * size, dx_short);
}

/* dx from g, the gradient of `normed` of norm(), and x, or what norm() gave as standard and scales.
 * `parts` gets the gradient of the gain, (chunk of rows, width). `steps`: of g, x, dx. */
void norm_back(const void *g, const void *x, const float *scales, const float *gain, double eps,
               double factor, void *dx, float *parts, const long *steps, long objects, long tokens,
               long heads, long width, long g_short, long x_short, long dx_short, long threads) {
    long rows = objects * tokens * heads;
#pragma omp parallel for num_threads(threads)
    for (long c = 0; c < (rows + CHUNK - 1) / CHUNK; c++) {
        float *part = parts + c * width;
        for (long i = 0; i < width; i++) part[i] = 0;
        for (long r = c * CHUNK; r < rows && r < (c + 1) * CHUNK; r++) {
            const void *said = at(g, place(r, steps, tokens, heads), g_short);
            const void *from = at(x, place(r, steps + 3, tokens, heads), x_short);
            void *to = (void *)at(dx, place(r, steps + 6, tokens, heads), dx_short);
            const float *scale = scales ? scales + r : 0;
            if (g_short && x_short && dx_short)
                norm_row_back(said, from, scale, gain, eps, factor, to, part, width, 1, 1, 1);
            else if (!g_short && !x_short && !dx_short)
                norm_row_back(said, from, scale, gain, eps, factor, to, part, width, 0, 0, 0);
            else
                norm_row_back(said, from, scale, gain, eps, factor, to, part, width, g_short,
                              x_short, dx_short);
        }
    }
}

/* 1 / (1 + exp(-x)) */
INLINE vec logistic(vec x) {
    vec small = exponential(choose(x > 0, -x, x)), share = 1 / (1 + small);
    return choose(x > 0, share, small * share);
}

/* out = SiLU(a) · b */
void gate(const void *a, const void *b, void *out, long count, long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < count; i += LANES) {
        vec x = load(a, i, short_);
        store(out, i, x * logistic(x) * load(b, i, short_), short_);
    }
}

/* From g, the gradient of SiLU(a) · b: that product again, and the gradients of a and of b. */
void gate_back(const void *g, const void *a, const void *b, void *product, void *da, void *db,
               long count, long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < count; i += LANES) {
        vec said = load(g, i, short_), x = load(a, i, short_), y = load(b, i, short_);
        vec share = logistic(x), open = x * share;
        store(product, i, open * y, short_);
        store(da, i, said * y * (share + open * (1 - share)), short_);
        store(db, i, said * open, short_);
    }
}

/* A row as float32, with `rest` behind it up to a whole number of vectors. */
INLINE void read_row(const void *p, float *row, long keys, float rest, long short_) {
    long whole = keys - keys % LANES;
    for (long i = 0; i < whole; i += LANES) STORE(row + i, load(p, i, short_));
    for (long i = whole; i < whole + LANES; i++) row[i] = i < keys ? number(p, i, short_) : rest;
}

INLINE void write_row(void *p, const float *row, long keys, long short_) {
    long whole = keys - keys % LANES;
    for (long i = 0; i < whole; i += LANES) store(p, i, LOAD(row + i), short_);
    for (long i = whole; i < keys; i++) store_number(p, i, row[i], short_);
}

INLINE void chances_row(void *scores, const char *mask, long keys, long short_) {
    const float least = -__builtin_inff();
    float row[KEYS + LANES];
    read_row(scores, row, keys, least, short_);
    if (mask)
        for (long i = 0; i < keys; i++) row[i] = mask[i] ? row[i] : least;
    vec top = LOAD(row), sum = {0};
    for (long i = LANES; i < keys; i += LANES) top = choose(LOAD(row + i) > top, LOAD(row + i), top);
    float largest = top[0];
    for (long i = 1; i < LANES; i++) largest = top[i] > largest ? top[i] : largest;
    for (long i = 0; i < keys; i += LANES) {
        vec x = LOAD(row + i);
        /* What is not heard has no chance at all. */
        x = choose(x == least, (vec){0}, exponential(x - largest));
        STORE(row + i, x);
        sum += x;
    }
    float share = 1 / total(sum);
    for (long i = 0; i < keys; i += LANES) STORE(row + i, LOAD(row + i) * share);
    write_row(scores, row, keys, short_);
}

/* Scores (head, query, key) become chances, in place; `mask`, (query or 1, key), if given, is 1
 * where a key may be heard. */
void chances(void *scores, const char *mask, long heads, long queries, long keys, long masks,
             long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < heads * queries; r++) {
        const char *own = mask ? mask + (masks > 1 ? r % queries : 0) * keys : 0;
        void *row = (void *)at(scores, r * keys, short_);
        if (short_) chances_row(row, own, keys, 1);
        else chances_row(row, own, keys, 0);
    }
}

INLINE void chances_row_back(void *g, const void *chance, long keys, long short_) {
    float said[KEYS + LANES], row[KEYS + LANES];
    read_row(g, said, keys, 0, short_);
    read_row(chance, row, keys, 0, short_);
    vec sum = {0};
    for (long i = 0; i < keys; i += LANES) sum += LOAD(said + i) * LOAD(row + i);
    float mean = total(sum);
    for (long i = 0; i < keys; i += LANES)
        STORE(said + i, LOAD(row + i) * (LOAD(said + i) - mean));
    write_row(g, said, keys, short_);
}

/* The gradient of chances (row, key) becomes that of scores, in place. */
void chances_back(void *g, const void *chance, long rows, long keys, long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < rows; r++) {
        void *said = (void *)at(g, r * keys, short_);
        if (short_) chances_row_back(said, at(chance, r * keys, 1), keys, 1);
        else chances_row_back(said, at(chance, r * keys, 0), keys, 0);
    }
}
