/* Vectors of floats as wide as the machine's, and what files of kernels need of them. */

#include <omp.h>
#include <stdint.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float four __attribute__((vector_size(16), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2)));

#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))

#define INLINE static inline __attribute__((always_inline))

/* A vector from float32, or from bfloat16 where `short_` is 1. */
INLINE vec load(const void *p, long i, long short_) {
    if (!short_) return LOAD((const float *)p + i);
    return (vec)(__builtin_convertvector(*(const hvec *)((const uint16_t *)p + i), uvec) << 16);
}

INLINE void store(void *p, long i, vec v, long short_) {
    if (!short_) {
        STORE((float *)p + i, v);
        return;
    }
    /* To the nearest, to even in the middle. */
    uvec bits = (uvec)v;
    bits += 0x7fff + ((bits >> 16) & 1);
    *(hvec *)((uint16_t *)p + i) = __builtin_convertvector(bits >> 16, hvec);
}

/* One number of these, and where the i-th is. */
INLINE float number(const void *p, long i, long short_) {
    if (!short_) return ((const float *)p)[i];
    union { uint32_t bits; float value; } one = {(uint32_t)((const uint16_t *)p)[i] << 16};
    return one.value;
}

INLINE void store_number(void *p, long i, float value, long short_) {
    if (!short_) {
        ((float *)p)[i] = value;
        return;
    }
    union { float value; uint32_t bits; } one = {value};
    ((uint16_t *)p)[i] = (one.bits + 0x7fff + ((one.bits >> 16) & 1)) >> 16;
}

INLINE const void *at(const void *p, long i, long short_) {
    return (const char *)p + i * (short_ ? 2 : 4);
}

INLINE float total(vec v) {
    union { vec whole; four parts[LANES / 4]; } both = {v};
    four sum = both.parts[0];
    for (int i = 1; i < LANES / 4; i++) sum += both.parts[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* What a LayerNorm multiplies the row by, once its mean is taken off. */
INLINE float norm_scale(const float *row, float mean, long width, float eps) {
    vec power = {0};
    for (long i = 0; i < width; i += LANES) {
        vec v = LOAD(row + i) - mean;
        power += v * v;
    }
    return 1 / __builtin_sqrtf(total(power) / width + eps);
}

/* yes where chosen, else no */
static inline vec choose(ivec chosen, vec yes, vec no) {
    return (vec)(((ivec)yes & chosen) | ((ivec)no & ~chosen));
}

/* exp(x) of x <= 0 */
static inline vec exponential(vec x) {
    x = choose(x < -87.0f, (vec){0} - 87.0f, x);
    /* exp(x) = 2^k exp(rest), |rest| < ln(2) / 2 */
    ivec k = __builtin_convertvector(x * 1.44269504f - 0.5f, ivec);
    vec whole = __builtin_convertvector(k, vec);
    vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec sum = 1.9875691500e-4f * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    return (sum * rest * rest + rest + 1.0f) * (vec)((k + 127) << 23);
}
