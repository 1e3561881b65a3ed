// AVX2: 6 tiles x 2 vectors are 12 sums; two rows of U and one broadcast leave one of 16 registers.
#include "common/lanes_avx2.hpp"
#include "winograd/tiles.hpp"

namespace compactnets::winograd {

const Operations avx2_operations = {transform_input<Lanes>, spread<Lanes>,
                                      multiply<Lanes, 6>, transform_output<Lanes>};

}  // namespace compactnets::winograd
