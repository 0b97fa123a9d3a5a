/* What lies between the matrix products of ConvNeXt V2 blocks, on CPU cores, in few passes over
 * memory; convnext.py compiles this file, tests it against torch, and calls it. What a product takes
 * or gives is float32, or bfloat16 where `short_` is 1; what blocks add up, x, is float32.
 */

#include "vectors.h"

enum { KERNEL = 7, CHANNELS = 2048 };

long pieces(void) { return 8; }
long lanes(void) { return LANES; }
long most_channels(void) { return CHANNELS; }

/* The exact GELU: erf(x / sqrt 2) as an odd rational function, minimax where it is not one within
 * float32, to 4e-7. */
INLINE vec gelu(vec x) {
    vec square = x * x;
    vec top = 4.445355148e-8f * square + 1.27102965e-5f;
    top = top * square + 3.462473013e-4f;
    top = top * square + 9.405780521e-3f;
    top = top * square + 6.860216651e-2f;
    top = top * square + 0.797884447f;
    vec bottom = 1.182490452e-6f * square + 7.488791181e-5f;
    bottom = bottom * square + 1.908843448e-3f;
    bottom = bottom * square + 2.889774352e-2f;
    bottom = bottom * square + 0.2526458089f;
    bottom = bottom * square + 1.0f;
    vec whole = 0.5f * x;
    vec inner = whole + whole * x * top / bottom;
    /* NaN stays NaN. */
    return choose(square >= 31.2f, choose(x > 0, x, (vec){0}), inner);
}

/* One pixel: the convolution over its neighbours in x, and the normalisation over channels. */
INLINE void depthwise_norm_one(const float *x, const float *weight, const float *bias,
                               const float *gain, const float *shift, void *out, long pixel,
                               long pixels, long channels, float eps, long short_) {
    float y[CHANNELS];
    vec sum = {0};
    long first = pixel < 3 ? 3 - pixel : 0, last = pixel + 3 < pixels ? 7 : 3 + pixels - pixel;
    for (long c = 0; c < channels; c += LANES) {
        vec v = LOAD(bias + c);
        for (long k = first; k < last; k++)
            v += LOAD(weight + k * channels + c) * LOAD(x + (k - 3) * channels + c);
        STORE(y + c, v);
        sum += v;
    }
    float mean = total(sum) / channels;
    float scale = norm_scale(y, mean, channels, eps);
    for (long c = 0; c < channels; c += LANES)
        store(out, c, (LOAD(y + c) - mean) * scale * LOAD(gain + c) + LOAD(shift + c), short_);
}

/* x (object, pixel, channel) convolved with weight (7, channel), plus bias, normalised. */
void depthwise_norm(const float *x, const float *weight, const float *bias, const float *gain,
                    const float *shift, void *out, long objects, long pixels, long channels,
                    double eps, long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < objects * pixels; i++) {
        const float *from = x + i * channels;
        if (short_)
            depthwise_norm_one(from, weight, bias, gain, shift, (uint16_t *)out + i * channels,
                               i % pixels, pixels, channels, eps, 1);
        else
            depthwise_norm_one(from, weight, bias, gain, shift, (float *)out + i * channels,
                               i % pixels, pixels, channels, eps, 0);
    }
}

INLINE void gelu_power_some(void *h, const float *bias, float *power, long first, long last,
                            long channels, long short_) {
    for (long c = 0; c < channels; c += LANES) STORE(power + c, (vec){0});
    for (long i = first; i < last; i++)
        for (long c = 0; c < channels; c += LANES) {
            vec v = gelu(load(h, i * channels + c, short_) + LOAD(bias + c));
            store(h, i * channels + c, v, short_);
            STORE(power + c, LOAD(power + c) + v * v);
        }
}

/* In place, h (object, pixel, channel) becomes gelu(h + bias); power (object, piece, channel) is
 * the sum of its squares over a piece of the pixels. Pieces do not depend on the threads. */
void gelu_power(void *h, const float *bias, float *power, long objects, long pixels, long channels,
                long short_, long threads) {
    long n = pieces();
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < objects * n; i++) {
        long first = i / n * pixels + i % n * pixels / n, last = i / n * pixels + (i % n + 1) * pixels / n;
        if (short_)
            gelu_power_some(h, bias, power + i * channels, first, last, channels, 1);
        else
            gelu_power_some(h, bias, power + i * channels, first, last, channels, 0);
    }
}

/* In place, h (object, pixel, channel) becomes h · scale (object, channel) + shift (channel). */
void scale_shift(void *h, const float *scale, const float *shift, long objects, long pixels,
                 long channels, long short_, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < objects * pixels; i++) {
        const float *own = scale + i / pixels * channels;
        for (long c = 0; c < channels; c += LANES) {
            vec factor = LOAD(own + c), term = LOAD(shift + c);
            if (short_)
                store(h, i * channels + c, load(h, i * channels + c, 1) * factor + term, 1);
            else
                store(h, i * channels + c, load(h, i * channels + c, 0) * factor + term, 0);
        }
    }
}

/* x (row, channel) += y + bias */
void add(float *x, const void *y, const float *bias, long rows, long channels, long short_,
         long threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < channels; c += LANES) {
            vec v = short_ ? load(y, i * channels + c, 1) : load(y, i * channels + c, 0);
            STORE(x + i * channels + c, LOAD(x + i * channels + c) + v + LOAD(bias + c));
        }
}
