#pragma once
// Tables of kernels, one per instruction set. Every *_kernel.cpp defines one, under the name of the
// instruction set that its object is compiled for; the host side declares them and picks.

#define STMIXER_TABLE_NAME_(name, isa) name##_##isa
#define STMIXER_TABLE_NAME(name, isa) STMIXER_TABLE_NAME_(name, isa)

// STMIXER_DEFINE_TABLE(Type, name) = {...};
#define STMIXER_DEFINE_TABLE(Type, name) extern const Type STMIXER_TABLE_NAME(name, STMIXER_ISA)

// STMIXER_PICK_TABLE(name, isa) is the one for an Isa that this machine supports.
#ifdef STMIXER_X86
#define STMIXER_DECLARE_TABLE(Type, name) \
  extern const Type name##_scalar, name##_avx2, name##_avx512
#define STMIXER_PICK_TABLE(name, isa) \
  ::stmixer::pick_table(isa, name##_scalar, name##_avx2, name##_avx512)
#else
#define STMIXER_DECLARE_TABLE(Type, name) extern const Type name##_scalar
#define STMIXER_PICK_TABLE(name, isa) \
  ::stmixer::pick_table(isa, name##_scalar, name##_scalar, name##_scalar)
#endif

namespace stmixer {

enum class Isa { scalar = 0, avx2 = 1, avx512 = 2 };

// A template, of which kernels make no instance: they may define nothing that the linker would
// have to merge.
template <class Table>
const Table& pick_table(Isa isa, const Table& scalar, const Table& avx2, const Table& avx512) {
  return isa == Isa::avx512 ? avx512 : isa == Isa::avx2 ? avx2 : scalar;
}

}  // namespace stmixer
