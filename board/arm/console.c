/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The console: a PL011 (DDI 0183), by polling, as the loader left it: speed and format are the
 * firmware's business. What is said before its place is known is kept and comes out first. A UART
 * that never gets ready costs a bounded wait per line, then bytes are lost.
 */
#include "board/arm/arm.h"
#include "kernel/board.h"

#include <string.h>

enum { UART_DATA = 0x00, UART_FLAGS = 0x18, UART_CONTROL = 0x30, UART_SPAN = 0x1000 };
enum { FLAG_TX_FULL = 1 << 5, CONTROL_ENABLE = 1 << 0, CONTROL_TX = 1 << 8 };
#define WAIT_SPINS 200000u

static volatile uint8_t *uart;
static char early[1024];
static size_t early_len;

static volatile uint32_t *uart_register(unsigned off)
{
    return (volatile uint32_t *)(volatile void *)(uart + off);
}

static void put(uint8_t c)
{
    for (unsigned i = 0; i < WAIT_SPINS && *uart_register(UART_FLAGS) & FLAG_TX_FULL; i++)
        ;
    *uart_register(UART_DATA) = c;
}

void board_console_write(const char *text, size_t len)
{
    if (!uart) {
        len = MIN(len, sizeof(early) - early_len);
        memcpy(early + early_len, text, len);
        early_len += len;
        return;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\n')
            put('\r');
        put((uint8_t)text[i]);
    }
}

void console_init(uint64_t pl011)
{
    uart = pl011 ? mmio_map(pl011, UART_SPAN) : NULL;
    if (!uart)
        return;
    *uart_register(UART_CONTROL) |= CONTROL_ENABLE | CONTROL_TX;
    board_console_write(early, early_len);
    early_len = 0;
}
