/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The console: COM1, a 16550, by polling. A full line is 60 to 100 bytes and each port access costs
 * a microsecond or more under a hypervisor, so the status is read once per FIFO-full of bytes. A
 * UART that never gets ready (or is not there: all ones) costs a bounded wait, then bytes are lost.
 */
#include "board/pc/pc.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"

enum { COM1 = 0x3f8, UART_DATA = COM1, UART_IER, UART_FCR, UART_LCR, UART_MCR, UART_LSR };
enum {
    LCR_8N1 = 0x03,
    LCR_DIVISOR = 0x80,
    FCR_ENABLE_CLEAR = 0x07,
    MCR_DTR_RTS_OUT2 = 0x0b,
    LSR_EMPTY = 0x20
};
#define FIFO_BYTES 16u
#define WAIT_SPINS 20000u /* about 20 ms: longer than 16 bytes take at 9600 baud */

void console_init(void)
{
    outb(UART_IER, 0);
    outb(UART_LCR, LCR_DIVISOR);
    outb(UART_DATA, 1); /* 115200 baud */
    outb(UART_IER, 0);
    outb(UART_LCR, LCR_8N1);
    outb(UART_FCR, FCR_ENABLE_CLEAR);
    outb(UART_MCR, MCR_DTR_RTS_OUT2);
}

static void put(uint8_t c)
{
    static unsigned room;
    if (!room) {
        for (unsigned i = 0; i < WAIT_SPINS && !(inb(UART_LSR) & LSR_EMPTY); i++)
            ;
        room = FIFO_BYTES;
    }
    outb(UART_DATA, c);
    room--;
}

void board_console_write(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\n')
            put('\r');
        put((uint8_t)text[i]);
    }
}
