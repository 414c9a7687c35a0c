
    # The call's arguments from their registers into the slot, and back; the first command's number and arguments.
    .macro runsc_save_arguments
    mov qword ptr gs:[{arguments}], rdi
    mov qword ptr gs:[{arguments} + 8], rsi
    mov qword ptr gs:[{arguments} + 16], rdx
    mov qword ptr gs:[{arguments} + 24], r10
    mov qword ptr gs:[{arguments} + 32], r8
    mov qword ptr gs:[{arguments} + 40], r9
    .endm
    .macro runsc_load_arguments
    mov rdi, qword ptr gs:[{arguments}]
    mov rsi, qword ptr gs:[{arguments} + 8]
    mov rdx, qword ptr gs:[{arguments} + 16]
    mov r10, qword ptr gs:[{arguments} + 24]
    mov r8, qword ptr gs:[{arguments} + 32]
    mov r9, qword ptr gs:[{arguments} + 40]
    .endm
    .macro runsc_load_command
    mov rax, qword ptr gs:[{commands}]
    mov rdi, qword ptr gs:[{commands} + 8]
    mov rsi, qword ptr gs:[{commands} + 16]
    mov rdx, qword ptr gs:[{commands} + 24]
    mov r10, qword ptr gs:[{commands} + 32]
    mov r8, qword ptr gs:[{commands} + 40]
    mov r9, qword ptr gs:[{commands} + 48]
    .endm

    # Entered from a patched call site, by way of its trampoline, in place of `syscall`: rax = call, arguments in
    # their registers, rcx = where to go on, r11 = free. Like `syscall` it changes nothing but rax, rcx, r11 and
    # arithmetic flags, and never touches the stack. gs = this thread's slot.
    .balign 64
runsc_stub_enter:
    cmp rax, {calls}
    jae 70f
    lea r11, [rip + runsc_stub_calls]
    mov r11, qword ptr [r11 + rax * 8]
    test r11d, 15
    jz 71f
    # A fact that the sentry has written down (bit 63: it is valid; the others are the value).
    and r11d, 15
    mov r11, qword ptr gs:[r11 * 8 + {facts} - 8]
    shl r11, 1
    jnc 70f
    sar r11, 1
    mov rax, r11
runsc_stub_fact:
    jmp rcx
70: # Nothing to carry along: ring.
    cmp eax, {clone3}
    je 52f
    cmp eax, {clone}
    je 52f
54:
    mov qword ptr gs:[{return_to}], rcx
runsc_stub_plain:
    mov dword ptr gs:[{in_length}], 0
    mov dword ptr gs:[{out_capacity}], 0
    syscall
runsc_stub_plain_ip:
    cmp rax, {answer_deep}
    je 91f
    cmp dword ptr gs:[{state}], {substitute}
    jae 90f
    mov rcx, qword ptr gs:[{return_to}]
    jmp rcx
runsc_stub_plain_end:
71:
    test r11, r11
    jz 70b
    mov qword ptr gs:[{return_to}], rcx
    mov dword ptr gs:[{number}], eax
    runsc_save_arguments
runsc_stub_saved:
    xor eax, eax
    mov qword ptr gs:[{in_length}], rax # and the capacity beside it
    mov dword ptr gs:[{out_length}], eax
    test r11d, {own_words}
    jnz 60f
61:
    # Input: pointer index, length register, mode and value, from bit 8 of the description.
    mov rdx, r11
    shr rdx, 8
    mov ecx, edx
    shr ecx, 6
    and ecx, 3
    jz 75f
    mov r8d, ecx
    mov ecx, edx
    and ecx, 7
    mov rsi, qword ptr gs:[rcx * 8 + {arguments}]
    cmp rsi, 4096
    jb 75f
    rdgsbase rdi
    add rdi, qword ptr [rip + runsc_stub_data]
    cmp r8d, 3
    je 73f
    mov r9d, edx
    shr r9d, 8
    and r9d, 0xffff
    cmp r8d, 1
    je 72f
    mov ecx, edx
    shr ecx, 3
    and ecx, 7
    mov rcx, qword ptr gs:[rcx * 8 + {arguments}]
    cmp rcx, {area}
    ja 75f
    imul r9, rcx
72:
    cmp r9, {area}
    ja 75f
    mov ecx, r9d
    mov eax, r9d
runsc_stub_copy_in:
    rep movsb
runsc_stub_copied_in:
    mov dword ptr gs:[{in_length}], eax
    jmp 75f
73: # A string with its end.
    xor ecx, ecx
74:
runsc_stub_copy_string:
    movzx eax, byte ptr [rsi + rcx]
runsc_stub_copied_string:
    mov byte ptr [rdi + rcx], al
    inc ecx
    test eax, eax
    jz 76f
    cmp ecx, {area}
    jb 74b
    jmp 75f
76:
    mov dword ptr gs:[{in_length}], ecx

runsc_stub_no_input:
75: # Output: is the place writable? From bit 40 of the description.
    mov rdx, r11
    shr rdx, 40
    mov ecx, edx
    shr ecx, 6
    and ecx, 3
    jz 79f
    mov r8d, ecx
    mov ecx, edx
    and ecx, 7
    mov rdi, qword ptr gs:[rcx * 8 + {arguments}]
    cmp rdi, 4096
    jb 79f
    mov r9d, edx
    shr r9d, 8
    and r9d, 0xffff
    cmp r8d, 1
    je 77f
    mov ecx, edx
    shr ecx, 3
    and ecx, 7
    mov rcx, qword ptr gs:[rcx * 8 + {arguments}]
    mov eax, {area}
    cmp rcx, rax
    cmova rcx, rax
    imul r9, rcx
77:
    mov eax, {area}
    cmp r9, rax
    cmova r9, rax
    test r9, r9
    jz 79f
runsc_stub_probe:
    lock or byte ptr [rdi], 0
    lock or byte ptr [rdi + r9 - 1], 0
runsc_stub_probed:
    mov dword ptr gs:[{out_capacity}], r9d

runsc_stub_no_output:
79: # Ask, if the sentry is looking.
    test r11d, 16
    jz 85f
    mov eax, {watched}
    mov ecx, {request}
    lock cmpxchg dword ptr gs:[{state}], ecx
runsc_stub_asked:
    jne 85f
80:
    mov ecx, {patience}
81:
    mov eax, dword ptr gs:[{state}]
    cmp eax, {watched}
    jbe 84f
    cmp eax, {park}
    je 82f
    cmp eax, {deep}
    je 91f
    cmp eax, {yielding}
    je 56f
    pause
    dec ecx
    jnz 81b
    # The sentry does not get to it. If it has not begun, take the request back and ring.
    mov eax, {request}
    xor ecx, ecx
    lock cmpxchg dword ptr gs:[{state}], ecx
runsc_stub_took_back:
    je 85f
    # It has begun: what it does may take a little longer yet than to sleep and to be woken would. Then sleep.
    mov ecx, {longer}
89:
    cmp dword ptr gs:[{state}], {taken}
    jne 80b
    pause
    dec ecx
    jnz 89b
    mov eax, {taken}
    mov ecx, {parking}
    lock cmpxchg dword ptr gs:[{state}], ecx
    je 83f
    jmp 80b
82:
    mov eax, {park}
    mov ecx, {parking}
    lock cmpxchg dword ptr gs:[{state}], ecx
    jne 80b
83:
    mov eax, {call_park}
    syscall
runsc_stub_park_ip:
    cmp rax, {answer_deep}
    je 91f
    jmp 86f
56: # The call waits for something, and the sentry looks at others, too, who share this processor: it is theirs now. Who comes soon to answer
    # need not wake anybody then.
    rdtsc
    mov r8d, eax
57:
    mov eax, {sched_yield}
    syscall
runsc_stub_yield_ip:
    cmp dword ptr gs:[{state}], {yielding}
    jne 80b
    rdtsc
    sub eax, r8d
    cmp eax, {yield_ticks}
    jb 57b
    mov eax, {yielding}
    mov ecx, {deep}
    lock cmpxchg dword ptr gs:[{state}], ecx
    jmp 80b
84:
runsc_stub_answered:
    mov rax, qword ptr gs:[{result}]
    jmp 86f
85: # Ring, with everything as it came.
runsc_stub_ring:
    runsc_load_arguments
    mov eax, dword ptr gs:[{number}]
    syscall
runsc_stub_ring_ip:
    cmp rax, {answer_deep}
    je 91f
runsc_stub_rung:
    cmp dword ptr gs:[{state}], {substitute}
    jae 90f
86: # rax is final. Output first, then the registers.
    mov ecx, dword ptr gs:[{out_length}]
    test ecx, ecx
    jz 87f
    rdgsbase rsi
    add rsi, qword ptr [rip + runsc_stub_data]
    mov edi, dword ptr gs:[{out_offset}]
    add rsi, rdi
    mov rdi, qword ptr gs:[{out_address}]
runsc_stub_copy_out:
    rep movsb
runsc_stub_copied_out:
87: # Also: the arguments stand in the slot, and nothing else is to be done.
    runsc_load_arguments
    mov rcx, qword ptr gs:[{return_to}]
    jmp rcx
90: # Another call is made in this one's place, and if it succeeds a result is returned that the sentry has left.
    jne 88f
    runsc_load_command
    syscall
runsc_stub_substitute_ip:
    cmp rax, -4095
    jae 87b
    mov rax, qword ptr gs:[{result}]
runsc_stub_substituted:
    jmp 87b
88:
    cmp dword ptr gs:[{state}], {spawn_here}
    je 95f
    # A read is made in this one's place. If it does not give what the sentry has foreseen, the call is made after all, and its place says so.
    runsc_load_command
    syscall
runsc_stub_transfer_ip:
    cmp rax, qword ptr gs:[{result}]
    je 87b
    runsc_load_arguments
    mov eax, dword ptr gs:[{number}]
    syscall
runsc_stub_again_ip:
    jmp 87b
91: # The answer will come to the slot. Until then the thread sleeps in the host, where it is no pending notification.
runsc_stub_deep:
    rdgsbase rdi
92: # Also put here by the sentry, from a call that did not come through the stub: rdi = slot.
runsc_stub_sink:
    cmp dword ptr [rdi], {deep}
    jne 93f
    xor esi, esi
    mov edx, {deep}
    xor r10d, r10d
    mov eax, {futex}
    syscall
runsc_stub_deep_ip:
    jmp 92b
93:
    mov rax, qword ptr [rdi + {result}]
runsc_stub_woken:
    cmp dword ptr [rdi + {out_length}], 0
    jne 86b
    mov rsi, qword ptr [rdi + {arguments} + 8]
    mov rdx, qword ptr [rdi + {arguments} + 16]
    mov r10, qword ptr [rdi + {arguments} + 24]
    mov r8, qword ptr [rdi + {arguments} + 32]
    mov r9, qword ptr [rdi + {arguments} + 40]
    mov rcx, qword ptr [rdi + {return_to}]
    mov rdi, qword ptr [rdi + {arguments}]
    jmp rcx
95: # A thread or process is made. Who has made a process says what came of it, and the answer is what its call returns. Who has made a
    # thread (CLONE_THREAD) says so only if it failed: the result stands in the slot.
    runsc_load_command
    syscall
runsc_stub_spawn_ip:
    test rax, rax
    jz 96f
    js 94f
    test edi, 0x10000
    jz 94f
    mov rax, qword ptr gs:[{result}]
    jmp 87b
94:
    mov rdi, rax
    mov eax, {spawned}
    syscall
runsc_stub_spawned_ip:
    jmp 87b
96: # The child makes one call, in which it is held until it is to run. One with its own memory maps its chunk (offset in r9)
    # over its parent's; any other points gs to its slot (r9), and its signal stack lies there.
    test edi, 0x100
    jz 97f
    wrgsbase r9
    lea rdi, [r9 + {alternate}]
    xor esi, esi
    mov eax, 131
    syscall
runsc_stub_fresh_stack_ip:
    jmp 98f
97:
    rdgsbase rdi
    and rdi, qword ptr [rip + runsc_stub_chunk_mask]
    mov rsi, qword ptr [rip + runsc_stub_chunk_size]
    mov edx, 3
    mov r10d, 0x11
    mov r8d, {slot_fd}
    mov eax, 9
    syscall
runsc_stub_fresh_map_ip:
    cmp rax, -4095
    jae 99f
98:
    xor eax, eax
    jmp 87b
99: # It is still on its parent's slot.
    ud2
runsc_stub_fresh_end:
60: # The call changes a word of the thread's own and nothing else: here, if the sentry has nothing against it.
runsc_stub_own:
    test r11d, {compared_word}
    jnz 58f
    test r11d, {robust_word}
    jz 62f
    test r11d, {mask_word}
    jnz 69f
    # To do this twice is to do it once.
    bt qword ptr gs:[{facts}], 63
    jnc 61b
    cmp rsi, {robust_head}
    jne 61b
    mov qword ptr gs:[{robust}], rdi
    jmp 87b
62: # The signal mask: r8 the old one, r9 the new one. Until that is written nothing is done.
    cmp dword ptr gs:[{leave}], 1
    jne 61b
    cmp r10, 8
    jne 61b
    mov r8, qword ptr gs:[{mask}]
    mov r9, r8
    lea rcx, [rip + runsc_stub_start - 8]
    test rsi, rsi
    jz 66f
    cmp rsi, rcx
    ja 61b
runsc_stub_own_read:
    mov rax, qword ptr [rsi]
    cmp edi, 2 # SIG_SETMASK
    je 65f
    ja 61b
    test edi, edi # SIG_BLOCK
    jz 64f
    not rax # SIG_UNBLOCK
    and r9, rax
    jmp 66f
58: # A futex wait compares a word. It is loaded here, by one instruction, so that the sentry need not reach for it.
    mov eax, esi
    and eax, 0x7f
    jz 59f # FUTEX_WAIT
    cmp eax, 9 # FUTEX_WAIT_BITSET
    jne 61b
59:
    test edi, 3
    jnz 61b
    cmp rdi, 4096
    jb 61b
    lea rcx, [rip + runsc_stub_start - 8]
    cmp rdi, rcx
    ja 61b
    mov eax, dword ptr [rdi]
    mov rcx, qword ptr [rip + runsc_stub_data]
    mov dword ptr gs:[rcx], eax
    mov dword ptr gs:[{in_length}], 4
    jmp 61b
64:
    or r9, rax
    jmp 66f
65:
    mov r9, rax
66: # Never SIGKILL and SIGSTOP. The old mask goes where any output goes.
    btr r9, 8
    btr r9, 18
    test rdx, rdx
    jz 67f
    cmp rdx, rcx
    ja 61b
    lock or byte ptr [rdx], 0
    lock or byte ptr [rdx + 7], 0
runsc_stub_own_probed:
    mov rcx, qword ptr [rip + runsc_stub_data]
    mov qword ptr gs:[rcx], r8
    mov qword ptr gs:[{out_address}], rdx
    mov dword ptr gs:[{out_offset}], 0
    mov dword ptr gs:[{out_length}], 8
67:
    xor eax, eax
    cmp r9, r8
    je 86b
    # Whoever has withdrawn the leave before this reads the mask after it, or is seen here.
    xchg qword ptr gs:[{mask}], r9
runsc_stub_own_set:
    cmp dword ptr gs:[{leave}], 1
    jne 68f
runsc_stub_own_kept:
    jmp 86b
68: # Something is pending: it is the sentry's, with everything as it was.
runsc_stub_own_undo:
    mov qword ptr gs:[{mask}], r8
runsc_stub_own_undone:
    mov dword ptr gs:[{out_length}], 0
    jmp 61b
69: # Private memory is mapped anywhere. If the sentry has suggested a place for as much, the call is made for that one; whether it is free
    # the sentry sees, who lets this very call be executed or answers it as one that asks for no place.
    test rdi, rdi
    jnz 61b
    cmp r10, {anywhere}
    jne 61b
    cmp rsi, qword ptr gs:[{place_length}]
    jne 61b
    mov rdi, qword ptr gs:[{place}]
    mov r10d, {there}
    mov eax, {mmap}
    syscall
runsc_stub_place_ip:
    jmp runsc_stub_ring_ip
runsc_stub_own_end:
52: # If a slot is ready for a thread, and a thread is asked for as libraries do, the `clone` is made at once and is itself the request. Should the sentry
    # have it made another way, or not at all, the host does not execute it, and it says so by a result that is neither 0 nor an error.
runsc_stub_direct:
    cmp qword ptr gs:[{ready_slot}], 0
    je 54b
    mov qword ptr gs:[{return_to}], rcx
    mov dword ptr gs:[{number}], eax
    runsc_save_arguments
runsc_stub_direct_saved:
    xor r11d, r11d
    mov qword ptr gs:[{in_length}], r11 # and the capacity beside it
    mov dword ptr gs:[{out_length}], r11d
    cmp eax, {clone}
    je 53f
    # struct clone_args: flags, stack and its size, thread area.
    cmp rsi, 64
    jb 85b
    mov r11, qword ptr [rdi]
    mov rsi, qword ptr [rdi + 40]
    add rsi, qword ptr [rdi + 48]
    mov r8, qword ptr [rdi + 56]
    mov rdi, r11
53:
    cmp rdi, {thread_flags}
    jne 85b
    test rsi, rsi
    jz 85b
    mov edi, {clone_flags}
    xor edx, edx
    xor r10d, r10d
    mov r9, qword ptr gs:[{ready_slot}]
    mov eax, {clone}
    syscall
runsc_stub_direct_ip:
    cmp rax, {answer_deep}
    je 91b
    test rax, rax
    jz 96b
    js 94b
    cmp dword ptr gs:[{state}], {substitute}
    jae 90b
    mov rax, qword ptr gs:[{result}]
    jmp 87b
runsc_stub_entered:

    .balign 8
runsc_stub_calls:
    .space {calls} * 8
runsc_stub_end:
    .popsection
    .purgem runsc_save_arguments
    .purgem runsc_load_arguments
    .purgem runsc_load_command
