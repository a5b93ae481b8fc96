// Read before each entry, as often as it is compiled (no #pragma once): turns HWB_BIAS into a parameter and an argument.
#ifndef HWB_TILE_N
#define HWB_TILE_N 8
#endif
#ifndef HWB_BIAS
#define HWB_BIAS 0
#endif
#ifndef HWB_ACT
#define HWB_ACT 0
#endif
#undef HWB_BIAS_PARAMETER
#undef HWB_BIAS_ARGUMENT
#if HWB_BIAS
#define HWB_BIAS_PARAMETER const void *bias,
#define HWB_BIAS_ARGUMENT static_cast<const uint16_t*>(bias)
#else
#define HWB_BIAS_PARAMETER
#define HWB_BIAS_ARGUMENT static_cast<const uint16_t*>(nullptr)
#endif
