#include "rans_group.hpp"
namespace kvquilt::rans {
uint8_t* encode_group_avx2(const Group& group, const GroupInput& input, uint8_t* end) { return encode_group_portable(group, input, end); }
}
