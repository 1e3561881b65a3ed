// AVX-512: 14 tiles x 2 vectors are 28 sums; two rows of U and one broadcast fill the 32 registers.
// Per channel 28 FMA beside 17 loads (14 of them broadcasts): the two FMA pipes are the limit. The
// loop has no access to the stack.
#include "common/lanes_avx512.hpp"
#include "winograd/tiles.hpp"

namespace compactnets::winograd {

const Operations avx512_operations = {transform_input<Lanes>, spread<Lanes>,
                                      multiply<Lanes, 14>, transform_output<Lanes>};

}  // namespace compactnets::winograd
