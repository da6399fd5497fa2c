/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fw_cfg by its registers in memory (QEMU docs/specs/fw_cfg): selector, big-endian, at 8; at 0 a
 * data register that gives the next 1 to 8 bytes. It would write to memory by itself, too; what we
 * read is short, and this way it can be asked before there is memory that a device may write.
 */
#include "board/arm/arm.h"
#include "board/fw_cfg.h"
#include "kernel/endian.h"

#include <string.h>

enum { FW_CFG_DATA = 0, FW_CFG_SELECT = 8, FW_CFG_SPAN = 0x18 };

static volatile uint8_t *registers;

static void select(uint16_t key)
{
    *(volatile uint16_t *)(volatile void *)(registers + FW_CFG_SELECT) = __builtin_bswap16(key);
}

static void read(void *buf, size_t len)
{
    uint8_t *p = buf;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v = *(volatile uint64_t *)(volatile void *)(registers + FW_CFG_DATA);
        memcpy(p, &v, 8);
    }
    while (len--)
        *p++ = registers[FW_CFG_DATA];
}

void fw_cfg_mmio_init(uint64_t base)
{
    static const struct fw_cfg_ops ops = {select, read};
    registers = mmio_map(base, FW_CFG_SPAN);
    if (registers)
        fw_cfg_init(&ops);
}
