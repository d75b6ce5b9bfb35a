import Testing

@testable import PatchbayLoad

@Suite struct SeriesTests {
  @Test func `the median of an odd and of an even number`() {
    #expect(Series(values: [9, 1, 3]).median == 3)
    #expect(Series(values: [4, 1, 2, 9]).median == 3)
    #expect(Series().median == 0)
  }

  @Test func `ratios pair runs of the same turn`() {
    let ratios = Series(values: [2, 9]).ratios(to: Series(values: [4, 3]))
    #expect(ratios.values == [0.5, 3])
  }

  @Test func `percentiles of known samples are right to three digits`() {
    let percentiles = Percentiles(nanoseconds: (1...100_000).map(Int64.init).shuffled())
    #expect(abs(percentiles.median - 50_000) <= 100)
    #expect(abs(percentiles.ninetyNinth - 99_000) <= 200)
    #expect(abs(percentiles.highest - 100_000) <= 200)
  }

  @Test func `decimals round and keep their zeros`() {
    #expect(1.0.decimals(2) == "1.00")
    #expect(0.005.decimals(2) == "0.01")
    #expect(12.345.decimals(1) == "12.3")
    #expect((-0.5).decimals(2) == "-0.50")
    #expect(7.6.decimals(0) == "8")
  }

  @Test func `a table lines up`() {
    let table = Report.table([["mode", "GB/s"], ["throughput", "1.5"]])
    #expect(table == "mode        GB/s\nthroughput   1.5")
  }
}
