// AVX-512 with VNNI and dot products of bfloat16, which take subnormal numbers for zeros.
#pragma once

#include "isa.h"

namespace expertly {
namespace {

struct Avx512Bf16 : Avx512 {
    static constexpr bool multiplies_bf16 = true;  // quicker than floats
    static constexpr int fetch_rows = 1;
    static constexpr int groups_ahead = 4;

    static I_INLINE Floats dot_bf16(Floats acc, Bytes w, const uint16_t* x) {
        return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w),
                                reinterpret_cast<__m512bh>(four(x)));
    }
    static I_INLINE void store_bf16(uint16_t* p, Floats a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
    }
    static I_INLINE void stream_bf16(uint16_t* p, Floats a, Floats b) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(p),
                            reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
    }
};

}  // namespace
}  // namespace expertly
