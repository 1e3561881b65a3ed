// Any processor: vectors of 4, 6 tiles x 2 of them; on x86-64 this becomes SSE2, on Arm NEON.
#include "common/lanes_portable.hpp"
#include "winograd/tiles.hpp"

namespace compactnets::winograd {

const Operations portable_operations = {transform_input<Lanes>, spread<Lanes>,
                                      multiply<Lanes, 6>, transform_output<Lanes>};

}  // namespace compactnets::winograd
