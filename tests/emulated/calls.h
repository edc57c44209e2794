// AMX's instructions as calls.
#pragma once

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig(from) emulated::configure(*(const emulated::Configuration*)(from))
#define _tile_storeconfig(to) (void)std::memcpy(to, &emulated::tiles.is, 64)
#define _tile_release() emulated::configure({})
#define _tile_loadd emulated::read
#define _tile_stored emulated::write
#define _tile_zero emulated::zero
#define _tile_dpbf16ps(c, a, b) emulated::multiply(true, c, a, b)
#define _tile_dpbssd(c, a, b) emulated::multiply(false, c, a, b)

#define syscall(...) 0  // by which the kernels ask for AMX
