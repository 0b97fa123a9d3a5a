/* A residual unit's two convolutions on CPU cores, Winograd's 3 x 3 and the 1 x 1, each with its bias
 * and ELU; and large convolutions through Fourier's transform. The same functions in plain torch are
 * in winograd.py and fourier.py; native.py compiles this file on the
 * machine it runs on, tests it against them, and calls it. Threads are those of OpenMP, which torch
 * uses too: threads of another kind would find the cores taken by torch's, which wait for work.
 *
 * Matrices that are multiplied are packed: rows in groups of ROWS, (group, channel, row), and
 * columns in panels of WIDE, (channel, column), so that both are read from first to last.
 */

#include "vectors.h"

#if defined(__AVX512F__)
enum { ROWS = 12 };
#else
enum { ROWS = 6 };
#endif
enum { WIDE = 2 * LANES, INNER = 6, FREQUENCIES = 36, PIXELS = 16 };

/* The points are 0, ±P, ±Q and infinity. */
#define P 0.75f
#define Q 1.5f
#define PP (P * P)
#define QQ (Q * Q)

long lanes(void) { return LANES; }
long group_rows(void) { return ROWS; }

static inline vec elu(vec x) {
    ivec positive = x > 0;
    return choose(positive, x, exponential(choose(positive, (vec){0}, x)) - 1.0f);
}

/* One side of a tile, of a kernel, and of the products; `s` apart in memory. */

static inline void tile_side(const vec *d, vec *o, int s) {
    vec p = d[4 * s] - QQ * d[2 * s], q = P * (d[3 * s] - QQ * d[s]);
    vec r = d[4 * s] - PP * d[2 * s], t = Q * (d[3 * s] - PP * d[s]);
    o[0] = PP * QQ * d[0] - (PP + QQ) * d[2 * s] + d[4 * s];
    o[s] = p + q;
    o[2 * s] = p - q;
    o[3 * s] = r + t;
    o[4 * s] = r - t;
    o[5 * s] = PP * QQ * d[s] - (PP + QQ) * d[3 * s] + d[5 * s];
}

static inline void kernel_side(const vec *g, vec *o, int s) {
    const float none = 1 / (PP * QQ), p = 1 / (2 * PP * (PP - QQ)), q = 1 / (2 * QQ * (QQ - PP));
    vec e = g[0] + PP * g[2 * s], f = P * g[s], h = g[0] + QQ * g[2 * s], k = Q * g[s];
    o[0] = none * g[0];
    o[s] = p * (e + f);
    o[2 * s] = p * (e - f);
    o[3 * s] = q * (h + k);
    o[4 * s] = q * (h - k);
    o[5 * s] = g[2 * s];
}

static inline void product_side(const vec *m, vec *o, int s) {
    vec p = m[s] + m[2 * s], q = m[s] - m[2 * s], r = m[3 * s] + m[4 * s], t = m[3 * s] - m[4 * s];
    o[0] = m[0] + p + r;
    o[s] = P * q + Q * t;
    o[2 * s] = PP * p + QQ * r;
    o[3 * s] = PP * P * q + QQ * Q * t + m[5 * s];
}

/* A tile of an image in Winograd's basis, for all channels, to one of the rows of its group. */
static void tile(const float *from, float *to, long width, long groups, long channels) {
    for (long c = 0; c < channels; c += LANES) {
        vec d[FREQUENCIES], h[FREQUENCIES];
        for (int a = 0; a < INNER; a++)
            for (int b = 0; b < INNER; b++)
                d[INNER * a + b] = LOAD(from + (a * width + b) * channels + c);
        for (int b = 0; b < INNER; b++) tile_side(d + b, h + b, INNER);
        for (int a = 0; a < INNER; a++) tile_side(h + INNER * a, d + INNER * a, 1);
        for (int f = 0; f < FREQUENCIES; f++) {
            float *p = to + (f * groups * channels + c) * ROWS;
            for (int l = 0; l < LANES; l++) p[l * ROWS] = d[f][l];
        }
    }
}

/* Images with a border (object, 4 rows + 2, 4 columns + 2, channel) in Winograd's basis, packed:
 * (frequency, group, channel, tile of group). */
void tiles(const float *x, float *out, long objects, long rows, long columns, long channels,
           long threads) {
    long width = 4 * columns + 2, height = 4 * rows + 2, count = objects * rows * columns;
    long groups = (count + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(dynamic, ROWS)
    for (long t = 0; t < count; t++) {
        long object = t / (rows * columns), row = t / columns % rows, column = t % columns;
        const float *from = x + ((object * height + 4 * row) * width + 4 * column) * channels;
        tile(from, out + t / ROWS * channels * ROWS + t % ROWS, width, groups, channels);
    }
}

/* sum (row of group, column) += a (channel, row) · b (channel, column), all packed. */
static inline void multiply(const float *a, const float *b, vec sum[ROWS][2], long channels) {
    vec local[ROWS][2];
    for (int i = 0; i < ROWS; i++) local[i][0] = sum[i][0], local[i][1] = sum[i][1];
    for (long c = 0; c < channels; c++, a += ROWS, b += WIDE) {
        vec b0 = LOAD(b), b1 = LOAD(b + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            local[i][0] += a[i] * b0;
            local[i][1] += a[i] * b1;
        }
    }
    for (int i = 0; i < ROWS; i++) sum[i][0] = local[i][0], sum[i][1] = local[i][1];
}

/* WIDE rows of numbers as columns: (number, row). */
static void turn(const float *rows, float *out, long length) {
    for (long start = 0; start < length; start += 16)
        for (long k = 0; k < WIDE; k++)
            for (long i = start; i < start + 16 && i < length; i++)
                out[i * WIDE + k] = rows[k * length + i];
}

/* Numbers from one panel to the next: a power of two would have them all share a place in the cache. */
static inline long padded(long channels) { return (channels + 1) * WIDE; }

/* Kernels (output, channel, 3, 3) of WIDE outputs: (frequency, channel, output); `turned` is
 * scratch of 9 · channels · WIDE numbers. */
static void kernels(const float *weight, float *out, float *turned, long channels) {
    turn(weight, turned, 9 * channels);
    for (long c = 0; c < channels; c++)
        for (int half = 0; half < WIDE; half += LANES) {
            vec g[9], h[18], u[FREQUENCIES], line[3], six[INNER];
            for (int i = 0; i < 9; i++) g[i] = LOAD(turned + (c * 9 + i) * WIDE + half);
            for (int b = 0; b < 3; b++) kernel_side(g + b, h + b, 3);
            for (int a = 0; a < INNER; a++) {
                for (int b = 0; b < 3; b++) line[b] = h[3 * a + b];
                kernel_side(line, six, 1);
                for (int b = 0; b < INNER; b++) u[INNER * a + b] = six[b];
            }
            for (int f = 0; f < FREQUENCIES; f++)
                STORE(out + f * padded(channels) + c * WIDE + half, u[f]);
        }
}

/* Outputs k … k + WIDE - 1 of `convolve`. */
static void convolve_some(const float *in, const float *weight, const float *bias, float *out,
                          float *scratch, long count, long channels, long outputs, long packed,
                          long k) {
    long groups = (count + ROWS - 1) / ROWS;
    float *u = scratch + 9 * channels * WIDE, *products = u + FREQUENCIES * padded(channels);
    kernels(weight + k * channels * 9, u, scratch, channels);
    for (long f = 0; f < FREQUENCIES; f++)
        for (long g = 0; g < groups; g++) {
            vec sum[ROWS][2] = {0};
            multiply(in + (f * groups + g) * channels * ROWS, u + f * padded(channels), sum, channels);
            for (int i = 0; i < ROWS; i++)
                for (int half = 0; half < 2; half++)
                    STORE(products + ((f * groups + g) * ROWS + i) * WIDE + half * LANES, sum[i][half]);
        }
    for (long t = 0; t < count; t++)
        for (int half = 0; half < WIDE; half += LANES) {
            vec m[FREQUENCIES], h[24], y[PIXELS], b = LOAD(bias + k + half);
            for (int f = 0; f < FREQUENCIES; f++)
                m[f] = LOAD(products + (f * groups * ROWS + t) * WIDE + half);
            for (int c = 0; c < INNER; c++) product_side(m + c, h + c, INNER);
            for (int a = 0; a < 4; a++) product_side(h + INNER * a, y + 4 * a, 1);
            for (int p = 0; p < PIXELS; p++) {
                if (!packed) {
                    STORE(out + (p * count + t) * outputs + k + half, y[p] + b);
                    continue;
                }
                vec value = elu(y[p] + b);
                float *to = out + ((p * groups + t / ROWS) * outputs + k + half) * ROWS + t % ROWS;
                for (int l = 0; l < LANES; l++) to[l * ROWS] = value[l];
            }
        }
}

/* The 3 x 3 convolution of packed tiles, with bias. With `packed`, ELU follows, and out is (pixel,
 * group, output, tile of group), else (pixel, tile, output). `scratch` has for each thread
 * (45 · channels + 36 + 36 · groups · ROWS) · WIDE numbers. */
void convolve(const float *in, const float *weight, const float *bias, float *out, float *scratch,
              long count, long channels, long outputs, long packed, long threads) {
    long size = (45 * channels + FREQUENCIES * (1 + (count + ROWS - 1) / ROWS * ROWS)) * WIDE;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long k = 0; k < outputs; k += WIDE)
        convolve_some(in, weight, bias, out, scratch + omp_get_thread_num() * size, count, channels,
                      outputs, packed, k);
}

/* Outputs k … k + WIDE - 1 of `mix`. */
static void mix_some(const float *in, const float *weight, const float *bias, float *out,
                     float *scratch, long count, long channels, long outputs, long k) {
    long groups = (count + ROWS - 1) / ROWS;
    turn(weight + k * channels, scratch, channels);
    for (long p = 0; p < PIXELS; p++)
        for (long g = 0; g < groups; g++) {
            vec sum[ROWS][2] = {0};
            multiply(in + (p * groups + g) * channels * ROWS, scratch, sum, channels);
            for (int i = 0; i < ROWS && g * ROWS + i < count; i++)
                for (int half = 0; half < 2; half++) {
                    long column = k + half * LANES;
                    STORE(out + (p * count + g * ROWS + i) * outputs + column,
                          elu(sum[i][half] + LOAD(bias + column)));
                }
        }
}

/* The 1 x 1 convolution of packed rows (pixel, group, channel, tile of group), with bias and ELU:
 * (pixel, tile, output). `scratch` has for each thread channels · WIDE numbers. */
void mix(const float *in, const float *weight, const float *bias, float *out, float *scratch,
         long count, long channels, long outputs, long threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long k = 0; k < outputs; k += WIDE)
        mix_some(in, weight, bias, out, scratch + omp_get_thread_num() * channels * WIDE, count,
                 channels, outputs, k);
}

/* Rows (count, channel) of each of `spectra` matrices, packed: (matrix, group, channel, row). */
void pack(const float *in, float *out, long spectra, long count, long channels, long threads) {
    long groups = (count + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(dynamic, ROWS)
    for (long f = 0; f < spectra; f++)
        for (long t = 0; t < count; t++) {
            const float *from = in + (f * count + t) * channels;
            float *to = out + (f * groups + t / ROWS) * channels * ROWS + t % ROWS;
            for (long c = 0; c < channels; c++) to[c * ROWS] = from[c];
        }
}

/* What a large convolution needs: see fourier.py, whose matrices these are. */
typedef struct {
    const float *first, *weight_real, *weight_full, *back_real, *back_full, *last;
    const float *weight, *bias;
    long count, channels, outputs, kernel, n, m, tile_rows, tile_columns;
} fourier_plan;

enum { MOST = 64 }; /* of the columns of a matrix */

/* out (row, …) = matrix (row, column) · in (column, …) for LANES numbers; steps in memory. */
static inline void transform(const float *matrix, long rows, long columns, const float *in,
                             long in_step, float *out, long out_step) {
    vec d[MOST];
    for (long j = 0; j < columns; j++) d[j] = LOAD(in + j * in_step);
    long i = 0;
    for (; i + 4 <= rows; i += 4, matrix += 4 * columns) {
        vec sum[4] = {0};
        for (long j = 0; j < columns; j++)
            for (int l = 0; l < 4; l++) sum[l] += matrix[l * columns + j] * d[j];
        for (int l = 0; l < 4; l++) STORE(out + (i + l) * out_step, sum[l]);
    }
    for (; i < rows; i++, matrix += columns) {
        vec sum = {0};
        for (long j = 0; j < columns; j++) sum += matrix[j] * d[j];
        STORE(out + i * out_step, sum);
    }
}

/* Products of the tiles' spectra with those of kernels at one v: (frequency, re/im, row, column). */
static void spectral(const float *tiles, const float *kernels, float *out, long frequencies,
                     long groups, long channels) {
    long matrix = groups * channels * ROWS, columns = padded(channels);
    for (long f = 0; f < frequencies; f++)
        for (long g = 0; g < groups; g++) {
            const float *real = tiles + 2 * f * matrix + g * channels * ROWS;
            const float *imaginary = real + matrix;
            const float *w_real = kernels + 2 * f * columns, *w_imaginary = w_real + columns;
            vec sum[2][ROWS][2] = {0};
            /* A correlation: the kernel's spectrum is conjugated. */
            multiply(real, w_real, sum[0], channels);
            multiply(imaginary, w_imaginary, sum[0], channels);
            multiply(real, w_imaginary, sum[1], channels);
            for (int i = 0; i < ROWS; i++)
                for (int half = 0; half < 2; half++) sum[1][i][half] = -sum[1][i][half];
            multiply(imaginary, w_real, sum[1], channels);
            for (int part = 0; part < 2; part++)
                for (int i = 0; i < ROWS; i++)
                    for (int half = 0; half < 2; half++)
                        STORE(out + (((2 * f + part) * groups + g) * ROWS + i) * WIDE + half * LANES,
                              sum[part][i][half]);
        }
}

/* Outputs k … k + WIDE - 1 of `fourier`, from places (column, row, tile, output) in Fourier space
 * along the columns. */
static void fourier_out(const fourier_plan *p, const float *back, float *out, long rows, long k) {
    long n = p->n, m = p->m, high = p->tile_rows * m, broad = p->tile_columns * m;
    float line[MOST * LANES];
    for (long a = 0; a < m; a++)
        for (long t = 0; t < p->count; t++)
            for (int half = 0; half < WIDE; half += LANES) {
                long object = t / (p->tile_rows * p->tile_columns);
                long y = t / p->tile_columns % p->tile_rows * m + a, x = t % p->tile_columns * m;
                vec bias = LOAD(p->bias + k + half);
                transform(p->last, m, n, back + (a * rows + t) * WIDE + half, m * rows * WIDE, line,
                          LANES);
                float *to = out + ((object * high + y) * broad + x) * p->outputs + k + half;
                for (long b = 0; b < m; b++) STORE(to + b * p->outputs, LOAD(line + b * LANES) + bias);
            }
}

static void fourier_some(const fourier_plan *p, const float *tiles, float *out, float *scratch,
                         long k) {
    long n = p->n, m = p->m, channels = p->channels, kernel = p->kernel, size = kernel * kernel;
    long groups = (p->count + ROWS - 1) / ROWS, rows = groups * ROWS, plane = channels * WIDE;
    float *turned = scratch, *side = turned + size * plane, *kernels = side + n * kernel * plane;
    float *products = kernels + 2 * n * padded(channels), *back = products + 2 * n * rows * WIDE;
    turn(p->weight + k * channels * size, turned, channels * size);
    /* (channel, row of the tap, column) to (channel, v, row of the tap). */
    for (long c = 0; c < channels; c++)
        for (long i = 0; i < kernel * WIDE; i += LANES)
            transform(p->first, n, kernel, turned + (c * kernel + i / WIDE) * kernel * WIDE + i % WIDE,
                      WIDE, side + c * n * kernel * WIDE + i, kernel * WIDE);
    for (long v = 0; v <= n / 2; v++) {
        long height = v < 2 ? 1 : 2, row = v < 2 ? v : 2 * v - 2, frequencies = v < 2 ? n / 2 + 1 : n;
        for (long i = 0; i < plane; i += LANES)
            transform(v < 2 ? p->weight_real : p->weight_full, 2 * frequencies, height * kernel,
                      side + (i / WIDE * n + row) * kernel * WIDE + i % WIDE, WIDE, kernels + i,
                      padded(channels));
        spectral(tiles, kernels, products, frequencies, groups, channels);
        tiles += 2 * frequencies * groups * channels * ROWS;
        for (long t = 0; t < rows * WIDE; t += LANES)
            transform(v < 2 ? p->back_real : p->back_full, height * m, 2 * frequencies, products + t,
                      rows * WIDE, back + row * m * rows * WIDE + t, rows * WIDE);
    }
    fourier_out(p, back, out, rows, k);
}

/* Numbers of scratch that `fourier` needs for each thread. */
long fourier_scratch(const fourier_plan *p) {
    long rows = (p->count + ROWS - 1) / ROWS * ROWS;
    return WIDE * (p->channels * (p->kernel * p->kernel + p->n * p->kernel) +
                   2 * p->n * (p->channels + 1) + rows * p->n * (2 + p->m));
}

/* A large convolution with bias of packed spectra (frequency, re/im, group, channel, tile of group):
 * (object, row, column, output), in whole tiles. */
void fourier(const fourier_plan *p, const float *tiles, float *out, float *scratch, long threads) {
    long size = fourier_scratch(p);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long k = 0; k < p->outputs; k += WIDE)
        fourier_some(p, tiles, out, scratch + omp_get_thread_num() * size, k);
}
