# wrap(PROGRAM LIBRARY SOURCE SYMBOL...): in PROGRAM, calls of SYMBOL in SOURCE, a file of LIBRARY, go to our __wrap_SYMBOL.
# Before PROGRAM is linked, wrapped.py checks that these calls pass the linker. PYTHON is the interpreter for it.
function(wrap program library source)
  set(check ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/wrapped.py)
  list(TRANSFORM ARGN PREPEND -Wl,--wrap= OUTPUT_VARIABLE options)
  target_link_options(${program} PRIVATE ${options})
  set_property(TARGET ${program} APPEND PROPERTY LINK_DEPENDS ${check})
  add_custom_command(TARGET ${program} PRE_LINK VERBATIM COMMAND_EXPAND_LISTS
    COMMAND ${PYTHON} ${check} ${source} ${ARGN} -- "$<FILTER:$<TARGET_OBJECTS:${library}>,INCLUDE,/${source}.o$>")
endfunction()
