#include "rans_group.hpp"
namespace kvquilt::rans {
bool decode_group_avx2(const Group& group, Words& words, const GroupOutput& output) { return decode_group_portable(group, words, output); }
}
